"""The certificate of a winner: trained, reloaded, merged and logged, it is one model."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.agreement import Parity
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.classify import classify, prompt_of
from mlflow_phi3.modeling.generate import generate, render_prompt
from mlflow_phi3.serving.certificate import (
    FIXED_PROMPTS,
    Certificate,
    ask_all,
    certify,
    compare_stage,
)
from mlflow_phi3.serving.local import load_checkpoint
from mlflow_phi3.serving.package import CHECKPOINT
from mlflow_phi3.tracking import registry


def certify_winner(
    base: Base,
    trained: Path,
    stored: Path,
    logged: Path,
    *,
    name: str,
    logits: Parity,
    tolerance: float,
    max_tokens: int,
) -> Certificate:
    """Ask every form of a winner the same prompts.

    Args:
        base: The frozen base.
        trained: The adapter as the training left it.
        stored: The adapter as the store gives it back.
        logged: The logged model, downloaded; its checkpoint lies within.
        name: What the certificate is of.
        logits: How far the merged model's logits are from the trained one's.
        tolerance: What they are held against.
        max_tokens: Tokens of an answer.
    """
    with with_adapter(base, trained) as model:
        reference = _answers(model, base.tokenizer, base.labels, max_tokens)
    with with_adapter(base, stored) as model:
        again = _answers(model, base.tokenizer, base.labels, max_tokens)
    merged = load_checkpoint(logged / CHECKPOINT)  # on the device that the pyfunc will choose
    served = _answers(merged.model, merged.tokenizer, merged.labels, max_tokens)
    del merged  # the pyfunc loads it once more
    predict = registry.load_predict(logged)
    asked = ask_all(predict, max_tokens=max_tokens, labels=bool(base.labels))
    return certify(
        name,
        reference,
        [
            compare_stage("adapter", reference, again),
            compare_stage("merged", reference, served, logits=logits, tolerance=tolerance),
            # In bfloat16 the merged model may decide a tie otherwise than the trained one did:
            # from here on it is what was merged that has to come out.
            compare_stage("pyfunc", served, asked),
        ],
        max_tokens=max_tokens,
        served=served,
        labels=base.labels,
    )


def _answers(
    model: PreTrainedModel, tokenizer: Tokenizer, labels: Sequence[str], max_tokens: int
) -> list[str]:
    if not labels:
        return generate(model, tokenizer, FIXED_PROMPTS, max_new_tokens=max_tokens, batch_size=1)
    texts = [prompt[-1].content for prompt in FIXED_PROMPTS]
    prompts = [render_prompt(tokenizer, prompt_of(text)) for text in texts]
    return [labels[int(shares.argmax())] for shares in classify(model, prompts, batch_size=1)]
