"""The loop: any number of trials side by side on one frozen base."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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
from mlflow_phi3.training.engine import (
    Engine,
    EngineKind,
    EngineName,
    Scores,
    choose_engine,
    loss_weight,
    make_engine,
)
from mlflow_phi3.training.loss import get_loss
from mlflow_phi3.training.reports import EndReport, EvaluationReport, Report, StepReport
from mlflow_phi3.training.schedule import Calendar
from mlflow_phi3.training.spec import TrialSpec
from mlflow_phi3.training.trajectory import Rider, Trajectory, Update

logger = logging.getLogger(__name__)

TOKEN_BUDGET = 4096  # tokens of one adapter in one pass


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
        token_budget: int = TOKEN_BUDGET,
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
        self._token_budget = token_budget
        self._checkpoint_s = checkpoint_s
        self._saved = time.perf_counter()
        self._running: list[Trajectory] = []
        self._finished: dict[TrialSpec, Trajectory] = {}
        self._pending: list[Report] = []
        self._data_sha256 = _digest(train)

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
        if not resume and adapter is None and self._share(rider):
            return
        layout = plan_layout(self._linear, spec.lora)
        start = rider.folder / "last" if resume else adapter
        if resume:
            progress = disk.load_progress(rider.folder / "last")
            self._check_identity(rider, progress)
            if evaluated is not None and evaluated < progress.evaluated:
                progress = replace(progress, evaluated=progress.evaluated - 1)
            rider.best_loss, rider.steps = progress.best_loss, progress.step
            twin = self._find_twin(spec, progress)
            if twin is not None:
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

    def reports(self) -> Iterator[Report]:
        """Train, telling every step; ends when no trial is left.

        ``close()`` on this generator leaves each trial's ``last`` at its latest step.
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
        except GeneratorExit:
            for trajectory in self._running:
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
        examples = _take([self._train[at] for at in upcoming], self._token_budget)
        losses = self._engine(group).gradients(examples, [t.row() for t in group])
        memory = memory_bytes(self._base.model.device)
        for trajectory, loss in zip(group, losses, strict=True):
            update = trajectory.absorb(loss, len(examples))
            if update is not None and update.finite:
                self._report_step(trajectory, update, memory)
            elif update is not None:
                problem = f"loss {update.loss}, gradient norm {update.grad_norm}"
                self._fail(trajectory, problem)

    def _evaluate(self, group: Sequence[Trajectory]) -> None:
        """Score the validation examples for all of ``group`` at once."""
        rows = [trajectory.row() for trajectory in group]
        engine = self._engine(group)
        parts: list[list[Scores]] = [[] for _ in rows]
        rest = list(self._validation)
        while rest:
            examples = _take(rest, self._token_budget)
            rest = rest[len(examples) :]
            for part, scores in zip(parts, engine.score(examples, rows), strict=True):
                part.append(scores)
        for trajectory, part in zip(group, parts, strict=True):
            trajectory.evaluated += 1
            told = _summarise(trajectory, part) if part else None
            if told is not None and not math.isfinite(told.loss):
                self._fail(trajectory, f"validation loss {told.loss}")
                continue
            if told is not None:
                trajectory.history.append(told)
            self._end_epoch(trajectory, told)

    def _end_epoch(self, trajectory: Trajectory, told: EvaluationReport | None) -> None:
        """Checkpoints and reports of every rider; the ones who have arrived leave."""
        improved = [r for r in trajectory.riders if told is None or told.loss < r.best_loss]
        if told is not None:
            for rider in improved:
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
        total = Calendar(rider.spec, len(self._train)).total_steps
        for report in trajectory.history:
            if isinstance(report, StepReport):
                rider.steps = report.step
                self._pending.append(replace(report, trial=rider.trial, total_steps=total))
            else:
                best = report.loss < rider.best_loss
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
        facts = {
            "spec": asdict(spec.trunk),
            "base": [self._base.name, self._base.revision],
            "data_sha256": self._data_sha256,
        }
        return json.loads(json.dumps(facts))  # type: ignore[no-any-return]

    def _check_identity(self, rider: Rider, progress: disk.Progress) -> None:
        for key, value in self._identity(rider.spec).items():
            if progress.identity.get(key) != value:
                raise TrainingError(
                    "PHI3-T004",
                    f"the checkpoint was trained with another {key}: "
                    f"{progress.identity.get(key)}, now {value}",
                    where=str(rider.folder / "last"),
                    fix="resume with what the trial began with, or start it anew",
                )

    def _leave(
        self, trajectory: Trajectory, rider: Rider, outcome: str = "complete", reason: str = ""
    ) -> None:
        best = rider.folder / "best"
        self._pending.append(
            EndReport(
                trial=rider.trial,
                outcome=outcome,  # type: ignore[arg-type]
                reason=reason,
                steps=rider.steps,
                best_loss=rider.best_loss if math.isfinite(rider.best_loss) else math.nan,
                best_checkpoint=best if disk.is_adapter(best) else None,
                seconds=time.perf_counter() - rider.began,
                shared_with=rider.shared_with,
            )
        )
        if len(trajectory.riders) > 1:
            trajectory.riders.remove(rider)
            return
        self._running.remove(trajectory)
        if outcome == "complete":
            self._finished[trajectory.spec.trunk] = trajectory

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

    def _report_step(self, trajectory: Trajectory, update: Update, memory: int) -> None:
        for rider in trajectory.riders:
            calendar = Calendar(rider.spec, len(self._train))
            rider.steps = trajectory.step
            report = StepReport(
                trial=rider.trial,
                step=trajectory.step,
                total_steps=calendar.total_steps,
                epoch=trajectory.seen / len(self._train),
                loss=update.loss,
                learning_rate=update.learning_rate,
                grad_norm=update.grad_norm,
                tokens=update.tokens,
                supervised_tokens=update.targets,
                tokens_per_second=update.tokens / max(update.seconds, 1e-9),
                memory_bytes=memory,
            )
            self._pending.append(report)
        trajectory.history.append(report)

    def _save_last(self, trajectory: Trajectory) -> None:
        first, *others = trajectory.riders
        disk.save_checkpoint(
            first.folder / "last",
            trajectory.layout,
            trajectory.weights,
            base_name=self._base.path,
            optimizer=trajectory.optimizer,
            progress=disk.Progress(
                trajectory.step, trajectory.evaluated, first.best_loss, self._identity(first.spec)
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


def memory_bytes(device: torch.device) -> int:
    """Resident set of this process (CPU) or allocated memory of ``device`` (GPU)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _choose(candidates: Sequence[Trajectory]) -> list[Trajectory]:
    """The trajectory that is furthest behind, and all that can share its next pass."""
    behind = min(candidates, key=lambda trajectory: trajectory.seen)
    return [t for t in candidates if t.fuses_with == behind.fuses_with]


def _take(examples: Sequence[Example], budget: int) -> list[Example]:
    """The first examples whose tokens fit into ``budget``; at least one."""
    ends = np.cumsum([len(example.input_ids) for example in examples])
    return list(examples[: max(1, int(np.searchsorted(ends, budget, side="right")))])


def _summarise(trajectory: Trajectory, parts: Sequence[Scores]) -> EvaluationReport:
    """One report over all validation examples; trial, best and checkpoint are each rider's."""
    nll = np.concatenate([part.nll for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    total = max(1, int(tokens.sum()))
    loss = float(nll.sum()) / total
    return EvaluationReport(
        trial="",
        step=trajectory.step,
        epoch=trajectory.evaluated,
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.nan,
        token_accuracy=sum(int(part.correct.sum()) for part in parts) / total,
        supervised_tokens=int(tokens.sum()),
        best=False,
        checkpoint=Path(),
        example_losses=tuple((nll / np.maximum(tokens, 1)).tolist()),
    )


def _digest(examples: Sequence[Example]) -> str:
    """SHA-256 over what the training examples say."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.input_ids.tobytes() + example.supervised.tobytes())
        digest.update(repr(example.label).encode())
    return digest.hexdigest()
