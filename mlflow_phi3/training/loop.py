"""The loop: any number of trials side by side on one frozen base."""

import hashlib
import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.choice import EngineKind, EngineName, choose_engine, make_engine
from mlflow_phi3.training.engine.adapters import Layout, find_linear, initial_weights, plan_layout
from mlflow_phi3.training.engine.interface import Engine
from mlflow_phi3.training.engine.loss import get_loss
from mlflow_phi3.training.memory import memory_bytes
from mlflow_phi3.training.passes import scoring_budget, split_by_tokens, token_budget_of
from mlflow_phi3.training.peft_files import load_adapter
from mlflow_phi3.training.reports import (
    EvaluationReport,
    Outcome,
    Report,
    StepReport,
    diverged,
)
from mlflow_phi3.training.rider import Rider
from mlflow_phi3.training.schedule import check_evaluations
from mlflow_phi3.training.sizes import measure_sizes
from mlflow_phi3.training.spec import TrialSpec
from mlflow_phi3.training.trajectory import Trajectory

logger = logging.getLogger(__name__)

REMEMBERED = 64  # finished trajectories on which a longer trial may still continue


class Session:
    """Trains any number of trials side by side on one frozen base.

    Trials whose next examples are the same (equal seeds, equal progress) are computed in one pass;
    the one that is furthest behind goes first, so that a late one catches up and joins the others.
    Trials that differ in ``epochs`` alone, at a constant rate, ride on one trajectory.

    A session belongs to one thread: ``add`` and ``drop`` are called between two reports.

    Args:
        base: The frozen base; while the session runs nobody else may use its model.
        train: Training examples, at least one.
        validation: Evaluated as often as each trial asks for; may be empty, then ``best`` is the
            latest.
        folder: Each trial keeps ``<folder>/<trial>/{best,last}``.
        engine: ``auto`` is ``fused`` where it knows the base and the trial, else ``reference``.
        token_budget: Most tokens of one adapter in one pass; bounds memory, not the batch size.
            None chooses by device.
        checkpoint_s: Seconds after which a running trial's ``last`` is renewed between evaluations.
    """

    def __init__(
        self,
        base: Base,
        train: Sequence[Example],
        validation: Sequence[Example],
        *,
        folder: Path,
        engine: EngineName = "auto",
        token_budget: int | None = None,
        checkpoint_s: float = 600.0,
    ) -> None:
        if not train:
            raise UsageError("PHI3-U064", "no training examples", where="train_data")
        self._base = base
        self._linear = find_linear(base.model)
        self._train, self._validation = train, validation
        self._sizes = measure_sizes(train)
        self._folder = folder
        self._engine_name: EngineName = engine
        self._engines: dict[EngineKind, Engine] = {}
        self._token_budget = token_budget or token_budget_of(base.model.device)
        self._checkpoint_s = checkpoint_s
        self._saved = time.perf_counter()
        self._running: list[Trajectory] = []
        self._finished: dict[TrialSpec, Trajectory] = {}
        self._pending: list[Report] = []
        self._data_sha256 = disk.digest_examples(train)

    def add(
        self,
        trial: str,
        spec: TrialSpec,
        *,
        resume: bool = False,
        evaluated: int | None = None,
        adapter: Path | None = None,
    ) -> None:
        """Let ``trial`` join at the next step boundary.

        Args:
            trial: Its name, unique in this session; also its folder's.
            spec: What it trains with.
            resume: Continue from ``<folder>/<trial>/last`` where an earlier session left it.
            evaluated: With ``resume``: evaluations that the listener has. When the earlier session
                died between its last checkpoint and that report, it is told again.
            adapter: Begin with this adapter (PEFT's format) instead of a fresh one.

        Raises:
            TrainingError: ``resume`` without a checkpoint, or one of another trial or other data.
            UsageError: An epoch has fewer steps than evaluations.
        """
        check_evaluations(spec, len(self._train))
        rider = Rider(trial, spec, self._folder / trial)
        if resume:
            self._resume(rider, evaluated)
        elif adapter is not None:
            self._begin_with(rider, adapter)
        else:
            self._begin_fresh(rider)

    def drop(self, trial: str) -> None:
        """Let ``trial`` leave: an EndReport follows, nobody else is disturbed."""
        for trajectory in self._running:
            for rider in trajectory.riders:
                if rider.trial == trial:
                    rider.dropped = True

    def reports(self) -> Generator[Report, None, None]:
        """Train, telling every step; ends when no trial is left.

        ``close()`` on this generator, Ctrl-C and ``Interrupted`` leave each trial's ``last`` at its
        latest step; a step that was cut in two is not kept.
        """
        try:
            while True:
                for trajectory in list(self._running):
                    for rider in [rider for rider in trajectory.riders if rider.dropped]:
                        self._leave(trajectory, rider, "dropped")
                yield from self._tell()
                if not self._running:
                    return
                due = [t for t in self._running if t.evaluation_due]
                group = _choose(due or self._running)
                if due:
                    self._evaluate(group)
                else:
                    self._advance(group)
                yield from self._tell()
                self._checkpoint()
        except (GeneratorExit, KeyboardInterrupt) as stop:
            self._save_all(stop)
            raise
        finally:
            for engine in self._engines.values():
                engine.close()

    # -- one turn of the loop ----------------------------------------------------------------

    def _advance(self, group: Sequence[Trajectory]) -> None:
        """One forward and backward pass; whoever's batch is complete takes a step."""
        upcoming = min((t.upcoming() for t in group), key=len)
        left = [self._train[at] for at in upcoming]
        examples = next(split_by_tokens(left, self._token_budget))
        began = time.perf_counter()
        losses = self._engine(group).accumulate_gradients(examples, [t.row() for t in group])
        seconds = time.perf_counter() - began
        memory = memory_bytes(self._base.model.device)
        for trajectory, loss in zip(group, losses, strict=True):
            told = trajectory.absorb(loss, len(examples), seconds, memory)
            if told is None:
                continue
            if math.isfinite(told.loss) and math.isfinite(told.grad_norm or 0.0):
                trajectory.torn = True  # until what it tells is not lost any more
                self._pending += trajectory.take(told)
                trajectory.torn = False
            else:
                problem = f"loss {told.loss}, gradient norm {told.grad_norm}"
                self._fail(trajectory, problem, told.step)

    def _evaluate(self, group: Sequence[Trajectory]) -> None:
        """Score the validation examples for all of ``group`` at once."""
        rows = [trajectory.row() for trajectory in group]
        budget = scoring_budget(self._token_budget, len(group))
        passes = [
            self._engine(group).score(examples, rows)
            for examples in split_by_tokens(self._validation, budget)
        ]
        for at, trajectory in enumerate(group):
            trajectory.torn = True
            trajectory.evaluated += 1
            told = trajectory.report_evaluation([scores[at] for scores in passes])
            if told is not None and not math.isfinite(told.loss):
                self._fail(trajectory, f"validation loss {told.loss}", told.step)
            else:
                self._keep_evaluated(trajectory, told)
            trajectory.torn = False

    def _keep_evaluated(self, trajectory: Trajectory, told: EvaluationReport | None) -> None:
        """Checkpoints and reports of every rider; the ones who have arrived leave."""
        improved = {r.trial: r.hear(told.loss if told else None) for r in trajectory.riders}
        self._save_last(trajectory, trajectory.riders)
        for rider in list(trajectory.riders):
            best = improved[rider.trial]
            if best:
                disk.copy_adapter(rider.folder / "last", rider.folder / "best")
            if told is not None:
                self._pending.append(rider.own_evaluation(told, best=best))
            if rider.spec.evaluations <= trajectory.evaluated:
                self._leave(trajectory, rider)

    # -- trials come and go ------------------------------------------------------------------

    def _begin_fresh(self, rider: Rider) -> None:
        """As PEFT begins, or on a trajectory that has begun so."""
        disk.discard_checkpoints(rider.folder)
        if not self._share(rider):
            layout = plan_layout(self._linear, rider.spec.lora)
            weights = initial_weights(self._linear, layout, rider.spec.seed)
            self._begin(rider, layout, weights)

    def _begin_with(self, rider: Rider, adapter: Path) -> None:
        """With somebody's adapter; nobody else gets on."""
        layout = plan_layout(self._linear, rider.spec.lora)
        weights = load_adapter(adapter, layout)
        disk.discard_checkpoints(rider.folder)  # once it is read: the adapter may be among them
        start = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
        self._begin(rider, layout, weights, start=start)

    def _resume(self, rider: Rider, evaluated: int | None) -> None:
        """From its latest checkpoint; on another's trajectory where that stands exactly there."""
        last, evaluations = rider.folder / "last", rider.spec.evaluations
        progress = disk.load_progress(last)
        disk.check_identity(last, progress, self._identity(rider.spec))
        if evaluated is not None and evaluated < progress.evaluated:
            # As if it had not been: whether it is the best is found out, and told, again.
            before = progress.evaluated - 1
            progress = replace(progress, evaluated=before, best_loss=progress.best_before)
        rider.take_up(progress)
        self._pending += [told for told in progress.untold if told.trial == rider.trial]
        twin = next((t for t in self._running if t.stands_at(rider.spec, progress)), None)
        if twin is not None and progress.evaluated < evaluations:
            rider.shared_with = twin.riders[0].shared_with or twin.riders[0].trial
            twin.riders.append(rider)
            return
        layout = plan_layout(self._linear, rider.spec.lora)
        weights = load_adapter(last, layout)
        trajectory = self._begin(rider, layout, weights, start=progress.start)
        trajectory.whole = False
        trajectory.restore(last, progress)
        if progress.evaluated >= evaluations:
            self._leave(trajectory, rider)

    def _begin(
        self, rider: Rider, layout: Layout, weights: torch.Tensor, *, start: str = ""
    ) -> Trajectory:
        weights = weights.to(self._base.model.device)
        get_loss(rider.spec, weights.device)  # an unknown name stops here, not at the first step
        trajectory = Trajectory(
            rider.spec,
            self._sizes,
            layout,
            weights,
            engine=choose_engine(self._base, self._engine_name, rider.spec),
            start=start,
        )
        trajectory.riders.append(rider)
        self._running.append(trajectory)
        return trajectory

    def _share(self, rider: Rider) -> bool:
        """Let ``rider`` ride on a trajectory that passes, or has ended, before its last epoch."""
        trunk = rider.spec.trunk
        passing = [t for t in self._running if t.whole and t.spec.trunk == trunk]
        trajectory = next((t for t in passing if t.evaluated < rider.spec.evaluations), None)
        if trajectory is not None:
            owner = trajectory.riders[0]
            trajectory.riders.append(rider)
        else:
            done = self._finished.get(trunk)
            if done is None or done.evaluated >= rider.spec.evaluations:
                return False
            owner = done.riders[0]
            last = owner.folder / "last"
            if not disk.is_resumable(last):
                return False
            trajectory = self._begin(rider, done.layout, load_adapter(last, done.layout))
            trajectory.restore(last, disk.load_progress(last))
            trajectory.history = list(done.history)
        rider.shared_with = owner.shared_with or owner.trial
        self._replay(trajectory, rider, owner.folder)
        return True

    def _replay(self, trajectory: Trajectory, rider: Rider, folder: Path) -> None:
        """Tell ``rider`` what its trajectory has told already, and hand it the best adapter."""
        if (folder / "best").is_dir():
            disk.copy_adapter(folder / "best", rider.folder / "best")
        for report in trajectory.history:
            if isinstance(report, StepReport):
                rider.steps = report.step
                self._pending.append(rider.own_step(report, len(self._train)))
            else:
                best = rider.hear(report.loss)
                self._pending.append(rider.own_evaluation(report, best=best))
        # Its `last` comes when it has heard all that.
        trajectory.boarded |= bool(trajectory.history)

    def _identity(self, spec: TrialSpec) -> dict[str, Any]:
        return disk.identify(spec, self._base, self._data_sha256)

    def _leave(
        self, trajectory: Trajectory, rider: Rider, outcome: Outcome = "complete", reason: str = ""
    ) -> None:
        self._pending.append(rider.report_end(outcome, reason))
        if len(trajectory.riders) > 1:
            trajectory.riders.remove(rider)
            return
        self._running.remove(trajectory)
        if outcome == "complete" and trajectory.whole:
            trajectory.release()
            self._finished[trajectory.spec.trunk] = trajectory
            if len(self._finished) > REMEMBERED:
                del self._finished[next(iter(self._finished))]

    def _fail(self, trajectory: Trajectory, problem: str, step: int) -> None:
        for rider in list(trajectory.riders):
            error = diverged(problem, step=step, where=rider.trial)
            self._leave(trajectory, rider, "failed", str(error))

    # -- what is told and kept ----------------------------------------------------------------

    def _tell(self) -> Iterator[Report]:
        while self._pending:
            yield self._pending.pop(0)

    def _save_last(
        self, trajectory: Trajectory, riders: Sequence[Rider], heard: Sequence[StepReport] = ()
    ) -> None:
        names = {rider.trial for rider in riders}
        steps = [report for report in self._pending if isinstance(report, StepReport)]
        trajectory.save(
            riders,
            base_name=self._base.path,
            identity=self._identity(trajectory.spec),
            untold=[*heard, *(report for report in steps if report.trial in names)],
        )

    def _checkpoint(self) -> None:
        """Renew each ``last`` by the clock, and where somebody has got on at once."""
        due = time.perf_counter() - self._saved > self._checkpoint_s
        for trajectory in self._running:
            if due or trajectory.boarded:
                # A listener that dies with us has nothing for certain since the last evaluation.
                recent = [
                    rider.own_step(told, len(self._train))
                    for rider in trajectory.riders
                    for told in trajectory.recent()
                ]
                self._save_last(trajectory, trajectory.riders, recent)
            trajectory.boarded = False
        self._saved = time.perf_counter() if due else self._saved

    def _save_all(self, stop: BaseException) -> None:
        """Save what goes on; a trial that cannot be saved hides neither the others nor ``stop``."""
        # Who is owed an evaluation was saved with it, or begins anew: a resumed one hears one only.
        owed = {report.trial for report in self._pending if isinstance(report, EvaluationReport)}
        for trajectory in self._running:
            riders = [rider for rider in trajectory.riders if rider.trial not in owed]
            if trajectory.torn or not riders:
                continue
            try:
                self._save_last(trajectory, riders)
            except Exception as second:  # noqa: BLE001 - the stop is what is obeyed
                told = f"the latest step of {riders[0].trial} could not be kept: {second}"
                stop.add_note(f"and {told}")
                logger.warning(told)  # a generator that is closed tells no notes

    def _engine(self, group: Sequence[Trajectory]) -> Engine:
        kind = group[0].engine
        if kind not in self._engines:
            self._engines[kind] = make_engine(self._base, kind)
        return self._engines[kind]


def _choose(candidates: Sequence[Trajectory]) -> list[Trajectory]:
    """The trajectory that is furthest behind, and all that can share its next pass."""
    behind = min(candidates, key=lambda trajectory: trajectory.seen)
    return [t for t in candidates if t.fuses_with == behind.fuses_with]
