"""A checkpoint that tells texts apart: a text in, its label and how sure that is out."""

import math
from typing import Any

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.classify import classify, prompt_of
from mlflow_phi3.modeling.generate import context_length, render_prompt
from mlflow_phi3.serving.local import Checkpoint
from mlflow_phi3.serving.rows import check_rows


class Labeller:
    """Classifies texts, several at once.

    Args:
        checkpoint: Of a classifier.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def labels(self) -> tuple[str, ...]:
        """What it tells apart."""
        return self._checkpoint.labels

    def answer(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """``{"label": ..., "score": ...}`` for each ``{"text": ...}``, in order.

        The score is the label's probability, 0 to 1.

        Raises:
            UsageError: A request has no text, or one that is longer than the context.
        """
        model, labels = self._checkpoint.model, self.labels
        prompts = check_rows(requests, self._encode)
        return [
            {"label": labels[int(shares.argmax())], "score": math.exp(float(shares.max()))}
            for shares in classify(model, prompts)
        ]

    def _encode(self, request: dict[str, Any]) -> list[int]:
        unknown = sorted(str(name) for name in request if name != "text")
        if unknown:
            raise _refused("unknown field", unknown[0])
        if "text" not in request:
            raise _refused("got nothing, not a text")
        text = request["text"]
        if not isinstance(text, str):
            kind = "null" if text is None else type(text).__name__
            raise _refused(f"got {kind}, not a text")
        prompt = render_prompt(self._checkpoint.tokenizer, prompt_of(text))
        room = context_length(self._checkpoint.model)
        if len(prompt) > room:
            raise UsageError(
                "PHI3-U048",
                f"the text has {len(prompt)} tokens and the model's context is {room} tokens",
                where="text",
                fix="shorten the text",
            )
        return prompt


def _refused(problem: str, where: str = "text") -> UsageError:
    return UsageError("PHI3-U047", problem, where=where, fix='give {"text": "..."} alone')
