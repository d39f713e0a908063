"""The loss of each example, one at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from mlflow_phi3.data.messages import Example


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


def example_losses(model: PreTrainedModel, examples: Iterable[Example]) -> Iterator[ExampleLoss]:
    """Read ``examples`` one after the other; only one example's logits are held at a time.

    Logits are taken in float32 at supervised positions alone. An example without a supervised token
    has loss 0 over 0 tokens.
    """
    for example in examples:
        yield _example_loss(model, example)


@torch.inference_mode()
def _example_loss(model: PreTrainedModel, example: Example) -> ExampleLoss:
    ids = torch.as_tensor(example.input_ids, dtype=torch.long, device=model.device)
    # The token at t is predicted by the position before it.
    targets = torch.as_tensor(example.supervised.nonzero()[0], device=model.device)
    if not len(targets):
        return ExampleLoss(example.place, 0.0, 0, 0)
    logits = model(input_ids=ids[None], use_cache=False, logits_to_keep=targets - 1).logits[0]
    wanted = ids[targets]
    total = functional.cross_entropy(logits.float(), wanted, reduction="sum").item()
    right = int((logits.argmax(-1) == wanted).sum())
    return ExampleLoss(example.place, total / len(targets), len(targets), right)
