"""How a model is asked, and the text in whatever it answers."""

import json
from collections.abc import Callable, Mapping
from typing import Any

Ask = Callable[[Mapping[str, Any]], Any]
"""Takes a request (a chat completion's, or a text to classify), gives what the model answers."""


def answer_text(answer: Any) -> str | None:
    """What a model said; None when it said nothing.

    Args:
        answer: A chat completion (its first text), a classifier's ``{"label", "score"}`` (the
            label), or another prediction (as JSON); by itself, in a list, or under
            ``predictions``, as MLflow's scoring server gives it.
    """
    found = answer
    if isinstance(found, Mapping) and "predictions" in found:
        found = found["predictions"]
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, Mapping) and found.get("choices"):
        found = (found["choices"][0].get("message") or {}).get("content")
    elif isinstance(found, Mapping) and "label" in found:
        found = found["label"]
    if found is None or found in ([], {}):
        return None
    return found if isinstance(found, str) else json.dumps(found, default=str)
