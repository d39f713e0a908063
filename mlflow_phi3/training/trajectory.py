"""One line of weights through the data; trials that have the same beginning ride on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.choice import EngineKind
from mlflow_phi3.training.engine.adapters import Layout
from mlflow_phi3.training.engine.interface import Row, Scores
from mlflow_phi3.training.optimizer import clip_gradient, make_optimizer
from mlflow_phi3.training.reports import (
    EvaluationReport,
    StepReport,
    perplexity,
)
from mlflow_phi3.training.rider import Rider
from mlflow_phi3.training.schedule import Schedule, order_examples
from mlflow_phi3.training.sizes import Sizes
from mlflow_phi3.training.spec import TrialSpec


class Trajectory:
    """Weights, gradient and optimizer of one specification, and its place in the data.

    Args:
        spec: What it trains with; ``epochs`` is that of the rider who got on first.
        sizes: Of the training examples.
        layout: Where the adapter's tensors lie.
        weights: float32 ``[layout.size]`` to begin with.
        engine: Which engine computes it.
        start: Digest of the adapter it began with; empty for a fresh one.
    """

    def __init__(
        self,
        spec: TrialSpec,
        sizes: Sizes,
        layout: Layout,
        weights: Tensor,
        *,
        engine: EngineKind,
        start: str = "",
    ) -> None:
        self.spec = spec
        self.engine = engine
        self.start = start
        self.whole = not start  # its history is that of a fresh adapter: others may get on
        self.boarded = False  # somebody has, and is not saved yet
        self.layout = layout
        self.weights = weights
        self.gradient = torch.zeros_like(weights)
        self.riders: list[Rider] = []
        self.history: list[StepReport | EvaluationReport] = []
        self.step = 0
        self.evaluated = 0
        self.offset = 0  # examples of this epoch already seen
        self.torn = False  # in the midst of a step or an evaluation: not to be saved; the loop's
        self._sizes = sizes
        self._loss_weights = sizes.weigh(spec, classifies=layout.classifies)
        self._loss_sum = self._seconds = 0.0  # of this batch so far
        self._order = (-1, np.empty(0, dtype=np.int64))
        views = list(layout.views(weights).values())
        for view, gradient in zip(views, layout.views(self.gradient).values(), strict=True):
            view.grad = gradient
        self.optimizer = make_optimizer(spec, views)

    @property
    def schedule(self) -> Schedule:
        """Its steps."""
        return Schedule(self.spec, len(self._sizes))

    @property
    def evaluation_due(self) -> bool:
        """Whether the steps to the next evaluation are done."""
        return self.schedule.evaluations_due(self.step) > self.evaluated

    @property
    def seen(self) -> int:
        """Examples seen since the beginning, repetitions included."""
        return self.schedule.batch(self.step)[0] * len(self._sizes) + self.offset

    @property
    def fuses_with(self) -> tuple[object, ...]:
        """Trajectories with equal values see the same examples next and can share a pass."""
        spec = self.spec
        order = spec.seed if spec.shuffle else None
        how = (spec.loss, spec.label_smoothing, spec.class_weights, spec.lora.dropout > 0)
        return (order, self.seen, self.layout.modules, self.engine, *how)

    def stands_at(self, spec: TrialSpec, progress: disk.Progress) -> bool:
        """Whether it is where a trial of ``spec`` was left, so that this can be resumed on it."""
        mine = self.spec.trunk, self.start, self.step, self.evaluated
        return mine == (spec.trunk, progress.start, progress.step, progress.evaluated)

    def upcoming(self) -> npt.NDArray[np.int64]:
        """Indices of the examples that are left of the current optimizer batch."""
        epoch, _, end = self.schedule.batch(self.step)
        return self._epoch_order(epoch)[self.offset : end]

    def row(self) -> Row:
        """Its part in a forward and backward pass over the next examples."""
        return Row(
            self.spec,
            self.layout,
            self.weights,
            self.gradient,
            scale=1.0 / self._denominator(),
            moment=(self.step, self.offset),
        )

    def absorb(
        self, loss_sum: float, n_examples: int, seconds: float, memory: int
    ) -> StepReport | None:
        """Count a pass over the next ``n_examples``; at the end of the batch, the step to take.

        The gradient is then clipped, and nothing else is done yet.
        """
        self._loss_sum += loss_sum
        self._seconds += seconds
        self.offset += n_examples
        epoch, start, end = self.schedule.batch(self.step)
        if self.offset < end:
            return None
        batch = self._epoch_order(epoch)[start:end]
        tokens = int(self._sizes.tokens[batch].sum())
        return StepReport(
            trial="",
            step=self.step + 1,
            total_steps=0,
            epoch=self.seen / len(self._sizes),
            loss=self._loss_sum / self._denominator(),
            learning_rate=self.schedule.learning_rate(self.step),
            grad_norm=clip_gradient(self.gradient, self.spec.max_grad_norm),
            tokens=tokens,
            supervised_tokens=int(self._sizes.supervised[batch].sum()),
            tokens_per_second=tokens / max(self._seconds, 1e-9),
            memory_bytes=memory,
            evaluation_follows=self.schedule.evaluation_follows(self.step + 1),
        )

    def take(self, told: StepReport) -> list[StepReport]:
        """Take the step of :meth:`absorb`; what every rider is told of it."""
        self.optimizer.param_groups[0]["lr"] = told.learning_rate
        self.optimizer.step()
        self.gradient.zero_()
        self._loss_sum = self._seconds = 0.0
        self.step, self.offset = told.step, self.offset % len(self._sizes)
        self.history.append(told)
        for rider in self.riders:
            rider.steps = told.step
        return [rider.own_step(told, len(self._sizes)) for rider in self.riders]

    def recent(self) -> list[StepReport]:
        """The steps since the last evaluation."""
        due = self.schedule.evaluations_due
        steps = [told for told in self.history if isinstance(told, StepReport)]
        return [told for told in steps if due(told.step - 1) >= self.evaluated]

    def restore(self, folder: Path, progress: disk.Progress) -> None:
        """Stand where the checkpoint in ``folder`` stood."""
        self.step, self.evaluated = progress.step, progress.evaluated
        self.history += [told for told in progress.untold if told.trial == progress.untold[0].trial]
        self.offset = self.schedule.batch(self.step)[1]
        disk.load_optimizer(folder, self.optimizer)

    def save(
        self,
        riders: Sequence[Rider],
        *,
        base_name: str,
        identity: Mapping[str, Any],
        untold: Sequence[StepReport],
    ) -> None:
        """Write where it stands as the ``last`` of ``riders``, who have heard alike."""
        first, *others = [rider.folder / "last" for rider in riders]
        best_loss, best_before = riders[0].best_loss, riders[0].best_before
        disk.save_checkpoint(
            first,
            self.layout,
            self.weights,
            base_name=base_name,
            optimizer=self.optimizer,
            progress=disk.Progress(
                self.step,
                self.evaluated,
                best_loss,
                best_before,
                identity,
                self.start,
                tuple(untold),
            ),
        )
        for folder in others:
            disk.copy_checkpoint(first, folder)

    def release(self) -> None:
        """Let go of the tensors; what it told is remembered, its files can be continued."""
        self.weights = self.gradient = torch.empty(0)
        self.optimizer.state.clear()
        self.optimizer.param_groups.clear()

    def report_evaluation(self, parts: Sequence[Scores]) -> EvaluationReport | None:
        """One report over all validation examples; trial and best are each rider's.

        None when there was nothing to evaluate on.
        """
        if not parts:
            return None
        nll = np.concatenate([part.nll for part in parts])
        tokens = np.concatenate([part.tokens for part in parts])
        total = max(1, int(tokens.sum()))
        loss = float(nll.sum()) / total
        told = EvaluationReport(
            trial="",
            step=self.step,
            number=self.evaluated,
            epoch=self.seen / len(self._sizes),
            loss=loss,
            perplexity=perplexity(loss),
            token_accuracy=sum(int(part.correct.sum()) for part in parts) / total,
            supervised_tokens=int(tokens.sum()),
            best=False,
            example_losses=tuple((nll / np.maximum(tokens, 1)).tolist()),
        )
        self.history.append(told)
        return told

    def _denominator(self) -> float:
        epoch, start, end = self.schedule.batch(self.step)
        # A batch in which nothing is supervised has no loss to divide.
        return float(self._loss_weights[self._epoch_order(epoch)[start:end]].sum()) or 1.0

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = (epoch, order_examples(self.spec, epoch, len(self._sizes)))
        return self._order[1]
