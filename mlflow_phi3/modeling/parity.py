"""Is it the same model? Logits of two models on the same examples."""

import math
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.agreement import Parity


@torch.inference_mode()
def compare_logits(a: PreTrainedModel, b: PreTrainedModel, examples: Iterable[Example]) -> Parity:
    """Compare the float32 logits of ``a`` and ``b`` at every position of ``examples``.

    One example is held at a time. A NaN in either model gives a ``max_abs`` of NaN.

    Args:
        a: The reference, for instance base plus adapter as trained.
        b: The model that is to be the same, for instance the reloaded merged one.
        examples: What both read.
    """
    largest = scale = lead = 0.0
    positions = differing = 0
    for example in examples:
        logits_a = _logits(a, example)
        logits_b = _logits(b, example).to(logits_a.device)
        gap = (logits_a - logits_b).abs().max().item()
        # max(x, nan) is x in Python: a NaN has to be carried by hand.
        largest = gap if math.isnan(gap) or math.isnan(largest) else max(largest, gap)
        scale = max(scale, logits_a.abs().max().item())
        positions += logits_a.shape[0]
        best_a, best_b = logits_a.argmax(-1, keepdim=True), logits_b.argmax(-1, keepdim=True)
        differing += int((best_a != best_b).sum())
        leads = logits_a.gather(-1, best_a) - logits_a.gather(-1, best_b)
        lead = max(lead, leads.max().item())
    return Parity(
        max_abs=largest,
        max_rel=largest / scale if scale else largest,
        positions=positions,
        differing=differing,
        widest_flip=lead / scale if scale else lead,
    )


def _logits(model: PreTrainedModel, example: Example) -> torch.Tensor:
    """Float32 ``[length, vocabulary]``; of a classifier ``[1, labels]``."""
    ids = torch.tensor(example.input_ids, dtype=torch.long, device=model.device)
    logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits
    return logits.reshape(-1, logits.shape[-1]).float()
