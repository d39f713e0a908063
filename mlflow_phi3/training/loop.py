"""The loop: any number of trials side by side on one frozen base."""

import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import TrainingError, UsageError
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.adapters import (
    HEAD,
    find_linear,
    initial_weights,
    load_adapter,
    plan_layout,
)
from mlflow_phi3.training.batching import digest_examples, split_by_tokens
from mlflow_phi3.training.capacity import memory_bytes
from mlflow_phi3.training.engine import (
    Engine,
    EngineKind,
    EngineName,
    choose_engine,
    loss_weight,
    make_engine,
)
from mlflow_phi3.training.loss import get_loss
from mlflow_phi3.training.reports import EvaluationReport, Outcome, Report, StepReport
from mlflow_phi3.training.spec import TrialSpec
from mlflow_phi3.training.trajectory import Rider, Trajectory

logger = logging.getLogger(__name__)

# Tokens of one adapter in one pass. A CPU's matrix products are full at about a thousand rows, and
# more would only take memory; a GPU's are not.
TOKEN_BUDGET = {"cpu": 1024, "cuda": 16384}
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
        validation: Evaluated at the end of each epoch; may be empty, then ``best`` is the latest.
        folder: Each trial keeps ``<folder>/<trial>/{best,last}``.
        engine: ``auto`` is ``fused`` where it knows the base and the trial, else ``reference``.
        token_budget: Most tokens of one adapter in one pass; bounds memory, not the batch size.
            None chooses by device.
        checkpoint_s: Seconds after which a running trial's ``last`` is renewed within an epoch.
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
        self._folder = folder
        self._engine_name: EngineName = engine
        self._engines: dict[EngineKind, Engine] = {}
        self._token_budget = token_budget or TOKEN_BUDGET.get(base.model.device.type, 1024)
        self._checkpoint_s = checkpoint_s
        self._saved = time.perf_counter()
        self._running: list[Trajectory] = []
        self._finished: dict[TrialSpec, Trajectory] = {}
        self._pending: list[Report] = []
        self._data_sha256 = digest_examples(train)

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
            evaluated: With ``resume``: epochs whose evaluation the listener has. When the earlier
                session died between its last checkpoint and that report, it is told again.
            adapter: Begin with this adapter (PEFT's format) instead of a fresh one.

        Raises:
            TrainingError: ``resume`` without a checkpoint, or one of another trial or other data.
        """
        rider = Rider(trial, spec, self._folder / trial)
        if not resume and adapter is None:
            disk.discard_checkpoints(rider.folder)
            if self._share(rider):
                return
        layout = plan_layout(self._linear, spec.lora)
        start = rider.folder / "last" if resume else adapter
        if resume:
            progress = disk.load_progress(rider.folder / "last")
            disk.check_identity(rider.folder / "last", progress, self._identity(spec))
            if evaluated is not None and evaluated < progress.evaluated:
                # As if it had not been: whether it is the best is found out, and told, again.
                before = progress.evaluated - 1
                progress = replace(progress, evaluated=before, best_loss=progress.best_before)
            rider.best_loss, rider.steps = progress.best_loss, progress.step
            rider.best_before = progress.best_before
            twin = self._find_twin(spec, progress)
            if twin is not None and progress.evaluated < spec.epochs:
                rider.shared_with = twin.riders[0].shared_with or twin.riders[0].trial
                twin.riders.append(rider)
                return
        weights = (
            initial_weights(self._linear, layout, spec.seed)
            if start is None
            else load_adapter(start, layout)
        )
        trajectory = self._begin(rider, weights)
        if resume:
            self._restore(trajectory, rider.folder / "last", progress)
            if progress.evaluated >= spec.epochs:
                self._leave(trajectory, rider)

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
                self._checkpoint_by_clock()
        except (GeneratorExit, KeyboardInterrupt):
            for trajectory in self._running:
                if not trajectory.torn:
                    self._save_last(trajectory)
            raise
        finally:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    # -- one turn of the loop ----------------------------------------------------------------

    def _advance(self, group: Sequence[Trajectory]) -> None:
        """One forward and backward pass; whoever's batch is complete takes a step."""
        upcoming = min((t.upcoming() for t in group), key=len)
        left = [self._train[at] for at in upcoming]
        examples = next(split_by_tokens(left, self._token_budget))
        losses = self._engine(group).gradients(examples, [t.row() for t in group])
        memory = memory_bytes(self._base.model.device)
        for trajectory, loss in zip(group, losses, strict=True):
            update = trajectory.absorb(loss, len(examples))
            if update is not None and update.finite:
                self._pending += trajectory.report_step(update, memory)
            elif update is not None:
                problem = f"loss {update.loss}, gradient norm {update.grad_norm}"
                self._fail(trajectory, problem)

    def _evaluate(self, group: Sequence[Trajectory]) -> None:
        """Score the validation examples for all of ``group`` at once."""
        rows = [trajectory.row() for trajectory in group]
        passes = [
            self._engine(group).score(examples, rows)
            for examples in split_by_tokens(self._validation, self._token_budget)
        ]
        for at, trajectory in enumerate(group):
            trajectory.torn = True
            trajectory.evaluated += 1
            told = trajectory.report_evaluation([scores[at] for scores in passes])
            if told is not None and not math.isfinite(told.loss):
                self._fail(trajectory, f"validation loss {told.loss}")
            else:
                self._end_epoch(trajectory, told)
            trajectory.torn = False

    def _end_epoch(self, trajectory: Trajectory, told: EvaluationReport | None) -> None:
        """Checkpoints and reports of every rider; the ones who have arrived leave."""
        improved = [r for r in trajectory.riders if told is None or told.loss < r.best_loss]
        for rider in trajectory.riders:
            rider.best_before = rider.best_loss
            if told is not None and rider in improved:
                rider.best_loss = told.loss
        self._save_last(trajectory)
        for rider in list(trajectory.riders):
            last = rider.folder / "last"
            if rider in improved:
                disk.copy_checkpoint(last, rider.folder / "best")
            if told is not None:
                self._pending.append(
                    replace(told, trial=rider.trial, best=rider in improved, checkpoint=last)
                )
            if rider.spec.epochs <= trajectory.evaluated:
                self._leave(trajectory, rider)

    # -- trials come and go ------------------------------------------------------------------

    def _begin(self, rider: Rider, weights: torch.Tensor) -> Trajectory:
        loss_weights = np.array(
            [
                loss_weight(rider.spec, example, classifies=HEAD in self._linear)
                for example in self._train
            ]
        )
        layout = plan_layout(self._linear, rider.spec.lora)
        weights = weights.to(self._base.model.device)
        get_loss(rider.spec, weights.device)  # an unknown name stops here, not at the first step
        engine = choose_engine(self._base, self._engine_name, rider.spec)
        trajectory = Trajectory(
            rider.spec, self._train, loss_weights, layout, weights, engine=engine
        )
        trajectory.riders.append(rider)
        self._running.append(trajectory)
        return trajectory

    def _share(self, rider: Rider) -> bool:
        """Let ``rider`` ride on a trajectory that passes, or has ended, before its last epoch."""
        trunk = rider.spec.trunk
        passing = [t for t in self._running if t.spec.trunk == trunk]
        trajectory = next((t for t in passing if t.evaluated < rider.spec.epochs), None)
        if trajectory is not None:
            owner = trajectory.riders[0]
            trajectory.riders.append(rider)
        else:
            done = self._finished.get(trunk)
            if done is None or done.evaluated >= rider.spec.epochs:
                return False
            owner = done.riders[0]
            if not (owner.folder / "last" / disk.STATE_FILE).is_file():
                return False
            trajectory = self._begin(rider, load_adapter(owner.folder / "last", done.layout))
            progress = disk.load_progress(owner.folder / "last")
            self._restore(trajectory, owner.folder / "last", progress)
            trajectory.history = list(done.history)
        rider.shared_with = owner.shared_with or owner.trial
        self._replay(trajectory, rider, owner.folder)
        return True

    def _find_twin(self, spec: TrialSpec, progress: disk.Progress) -> Trajectory | None:
        """A running trajectory on which a resumed trial of ``spec`` stands exactly."""
        for trajectory in self._running:
            stands = (trajectory.step, trajectory.evaluated)
            if trajectory.spec.trunk == spec.trunk and stands == (
                progress.step,
                progress.evaluated,
            ):
                return trajectory
        return None

    def _replay(self, trajectory: Trajectory, rider: Rider, folder: Path) -> None:
        """Tell ``rider`` what its trajectory has told already, and hand it the checkpoints."""
        for name in ("best", "last"):
            if (folder / name).is_dir():
                disk.copy_checkpoint(folder / name, rider.folder / name)
        for report in trajectory.history:
            if isinstance(report, StepReport):
                self._pending.append(trajectory.address(report, rider))
            else:
                best = report.loss < rider.best_loss
                rider.best_before = rider.best_loss
                rider.best_loss = min(report.loss, rider.best_loss)
                checkpoint = rider.folder / "last"
                self._pending.append(
                    replace(report, trial=rider.trial, best=best, checkpoint=checkpoint)
                )

    def _restore(self, trajectory: Trajectory, folder: Path, progress: disk.Progress) -> None:
        trajectory.jump(progress.step, progress.evaluated)
        disk.load_optimizer(folder, trajectory.optimizer)

    def _identity(self, spec: TrialSpec) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued, as JSON values."""
        return {
            "spec": asdict(spec.trunk),
            "base": [self._base.name, self._base.revision, self._base.quantization],
            "data_sha256": self._data_sha256,
        }

    def _leave(
        self, trajectory: Trajectory, rider: Rider, outcome: Outcome = "complete", reason: str = ""
    ) -> None:
        self._pending.append(rider.report_end(outcome, reason))
        if len(trajectory.riders) > 1:
            trajectory.riders.remove(rider)
            return
        self._running.remove(trajectory)
        if outcome == "complete":
            trajectory.release()
            self._finished[trajectory.spec.trunk] = trajectory
            if len(self._finished) > REMEMBERED:
                del self._finished[next(iter(self._finished))]

    def _fail(self, trajectory: Trajectory, problem: str) -> None:
        for rider in list(trajectory.riders):
            error = TrainingError(
                "PHI3-T003",
                f"{problem} at step {trajectory.step + 1}",
                where=rider.trial,
                fix="lower learning_rate, raise warmup_ratio, or look at the rows of that batch",
            )
            self._leave(trajectory, rider, "failed", str(error))

    # -- what is told and kept ----------------------------------------------------------------

    def _tell(self) -> Iterator[Report]:
        while self._pending:
            yield self._pending.pop(0)

    def _save_last(self, trajectory: Trajectory) -> None:
        first, *others = trajectory.riders
        disk.save_checkpoint(
            first.folder / "last",
            trajectory.layout,
            trajectory.weights,
            base_name=self._base.path,
            optimizer=trajectory.optimizer,
            progress=disk.Progress(
                trajectory.step,
                trajectory.evaluated,
                first.best_loss,
                first.best_before,
                self._identity(first.spec),
            ),
        )
        for rider in others:
            disk.copy_checkpoint(first.folder / "last", rider.folder / "last")

    def _checkpoint_by_clock(self) -> None:
        if time.perf_counter() - self._saved > self._checkpoint_s:
            for trajectory in self._running:
                self._save_last(trajectory)
            self._saved = time.perf_counter()

    def _engine(self, group: Sequence[Trajectory]) -> Engine:
        kind = group[0].engine
        if kind not in self._engines:
            self._engines[kind] = make_engine(self._base, kind)
        return self._engines[kind]


def _choose(candidates: Sequence[Trajectory]) -> list[Trajectory]:
    """The trajectory that is furthest behind, and all that can share its next pass."""
    behind = min(candidates, key=lambda trajectory: trajectory.seen)
    return [t for t in candidates if t.fuses_with == behind.fuses_with]
