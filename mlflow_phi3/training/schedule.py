"""When steps happen and at which learning rate: pure functions of the specification."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_phi3.errors import UsageError
from mlflow_phi3.training.spec import TrialSpec

DECAY_SHARE = 0.2  # of all steps, at the end of ``wsd`` (MiniCPM, arXiv:2404.06395, uses 10-20 %)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of one trial over ``n_examples`` training examples.

    Args:
        spec: The trial.
        n_examples: Training examples, at least 1; the last batch of an epoch may be smaller.
    """

    spec: TrialSpec
    n_examples: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the examples."""
        return math.ceil(self.n_examples / self.spec.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole trial."""
        return self.steps_per_epoch * self.spec.epochs

    def evaluations_due(self, step: int) -> int:
        """Evaluations that there should have been after ``step`` finished steps."""
        return step * self.spec.evaluations_per_epoch // self.steps_per_epoch

    def evaluation_follows(self, step: int) -> bool:
        """Whether there is an evaluation right after the step that makes it ``step`` steps."""
        return self.evaluations_due(step) > self.evaluations_due(step - 1)

    def batch(self, step: int) -> tuple[int, int, int]:
        """Epoch (0-based) and bounds, within its order, of the batch after ``step`` steps."""
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.spec.batch_size
        return epoch, start, min(start + self.spec.batch_size, self.n_examples)

    def learning_rate(self, step: int) -> float:
        """Rate of the update that follows ``step`` finished steps.

        As in ``transformers.get_*_schedule_with_warmup``, the very first update of a warm-up
        happens at rate zero, so that a trial can be set beside one of Hugging Face's Trainer. An
        epoch's last update is past it: one of a single step would learn nothing.
        """
        spec, total = self.spec, self.total_steps
        warmup = min(math.ceil(spec.warmup_ratio * self.steps_per_epoch), self.steps_per_epoch - 1)
        if step < warmup:
            return spec.learning_rate * step / warmup
        if spec.scheduler == "constant":
            return spec.learning_rate
        begin = warmup if spec.scheduler != "wsd" else total - round(DECAY_SHARE * total)
        done = max(0.0, (step - begin) / max(1, total - begin))
        if spec.scheduler == "cosine":
            return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        return spec.learning_rate * (1.0 - done)


def check_evaluations(spec: TrialSpec, n_examples: int) -> None:
    """Refuse more evaluations of an epoch than it has steps: some would measure nothing new.

    Args:
        spec: The trial.
        n_examples: Training examples, at least 1.

    Raises:
        UsageError: There are more.
    """
    steps = Schedule(spec, n_examples).steps_per_epoch
    if spec.evaluations_per_epoch > steps:
        raise UsageError(
            "PHI3-U073",
            f"{spec.evaluations_per_epoch} evaluations an epoch, which has steps for {steps}",
            where="evaluations_per_epoch",
            fix=f"at most {steps}, more rows, or a smaller batch than {spec.batch_size} examples",
        )


def order_examples(spec: TrialSpec, epoch: int, n_examples: int) -> npt.NDArray[np.int64]:
    """Indices of the training examples in the order in which ``epoch`` visits them.

    A function of seed and epoch alone: a resumed trial needs no stored random state, and trials
    with the same seed see the same batches, which is what lets them be computed together.
    """
    if not spec.shuffle:
        return np.arange(n_examples, dtype=np.int64)
    return np.random.default_rng([spec.seed, epoch]).permutation(n_examples)
