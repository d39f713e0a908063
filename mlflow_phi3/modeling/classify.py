"""Labels of texts: logits of a classifier, streamed."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from mlflow_phi3.data.messages import Message
from mlflow_phi3.modeling.generate import Ids, batches, pad

LogProbs = npt.NDArray[np.float64]


def prompt_of(text: str) -> tuple[Message, ...]:
    """A text as the chat template takes it: what the user says."""
    return (Message("user", text),)


def classify(
    model: PreTrainedModel, prompts: Iterable[Ids], *, batch_size: int = 16
) -> Iterator[LogProbs]:
    """How likely each label is; one batch is held at a time.

    The last token of a prompt decides, as in training: it has seen all others.

    Args:
        model: A ``*ForSequenceClassification``, bare or with an adapter on it.
        prompts: Token ids of each rendered text, up to where an answer would begin.
        batch_size: Prompts computed together, padded on the right.

    Yields:
        Float64 ``[labels]``, natural logarithms of probabilities, one for each prompt in order.
    """
    # PEFT's wrapper hands out the model with the adapter's layers in it; it is not imported here,
    # because who serves a merged model need not have it.
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    for batch in batches(prompts, batch_size, bare):
        yield from _log_probs(bare, batch)


@torch.inference_mode()
def _log_probs(model: PreTrainedModel, prompts: Sequence[Ids]) -> LogProbs:
    """Float64 ``[prompts, labels]``."""
    ids, mask = pad(prompts, fill=0, side="right")
    device = model.device
    # Not the model's own pooling, which looks for the last token that is not the padding token:
    # with a template whose last token is just that one, it would take another than training did.
    hidden = model.base_model(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
    ).last_hidden_state
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    logits = model.score(hidden[torch.arange(len(prompts), device=device), last])
    found: LogProbs = logits.float().log_softmax(-1).double().cpu().numpy()
    return found
