"""The loss of each example, as reports and comparisons keep it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.scoring import score


@dataclass(frozen=True, slots=True)
class ExampleLoss:
    """How badly the model expected one example.

    Args:
        place: ``source:line`` of its conversation.
        loss: Mean negative log-likelihood of its supervised tokens, in nats.
        tokens: Supervised tokens.
        right: Tokens of them whose most likely token was the right one.
    """

    place: str
    loss: float
    tokens: int
    right: int


def example_losses(
    base: Base, adapter: Path | None, examples: Iterable[Example]
) -> Iterator[ExampleLoss]:
    """Read ``examples`` in order with the training engine's own forward pass.

    Only one pass of it is held at a time. An example without a supervised token has loss 0 over 0
    tokens.

    Raises:
        TrainingError: The adapter does not fit the base.
    """
    for found in score(base, adapter, examples):
        yield ExampleLoss(found.place, found.loss, found.tokens, found.correct)
