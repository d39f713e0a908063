"""Which examples go through one pass together: as many tokens as its memory has room for."""

from collections.abc import Iterable, Iterator

import torch

from mlflow_phi3.data.messages import Example

# Tokens of one adapter in one pass. A CPU's matrix products are full at about a thousand rows, and
# more would only take memory; a GPU's are not.
_TOKEN_BUDGET = {"cpu": 1024, "cuda": 16384}
SCORED = 1024  # tokens of one adapter in a scoring pass that a large group does not go below


def token_budget_of(device: torch.device) -> int:
    """Most tokens of one adapter in one pass on ``device``, where nothing else is asked for."""
    return _TOKEN_BUDGET.get(device.type, _TOKEN_BUDGET["cpu"])


def scoring_budget(token_budget: int, trials: int) -> int:
    """Most tokens of one adapter in a pass that scores for ``trials`` at once.

    Memory was measured for training, whose passes end with the batch: these do not.
    """
    return min(token_budget, max(SCORED, token_budget // trials))


def split_by_tokens(examples: Iterable[Example], budget: int) -> Iterator[list[Example]]:
    """Consecutive examples of at most ``budget`` tokens together, or a single longer one."""
    part: list[Example] = []
    tokens = 0
    for example in examples:
        if part and tokens + len(example.input_ids) > budget:
            yield part
            part, tokens = [], 0
        part.append(example)
        tokens += len(example.input_ids)
    if part:
        yield part
