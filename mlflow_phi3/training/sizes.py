"""How large the training examples are, and what each weighs in the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.messages import Example
from mlflow_phi3.training.spec import TrialSpec


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is counted of the training examples, once: they may lie on a disk, and be many.

    Args:
        tokens: int64 ``[examples]``.
        supervised: int64 ``[examples]``, tokens of them that carry loss.
        labels: int64 ``[examples]``, the class of each text; -1 for a conversation.
    """

    tokens: npt.NDArray[np.int64]
    supervised: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def weigh(self, spec: TrialSpec, *, classifies: bool) -> npt.NDArray[np.float64]:
        """What each example adds to the denominator of the mean loss, float64 ``[examples]``."""
        if not classifies:
            return self.supervised.astype(np.float64)
        if spec.class_weights:
            return np.array(spec.class_weights, dtype=np.float64)[self.labels]
        return np.ones(len(self))


def measure_sizes(examples: Sequence[Example]) -> Sizes:
    """Count the tokens of ``examples``, of which there is at least one."""
    each = [
        (len(e.input_ids), np.count_nonzero(e.supervised), -1 if e.label is None else e.label)
        for e in examples
    ]
    return Sizes(*np.array(each, dtype=np.int64).T)
