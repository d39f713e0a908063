"""Conversations and examples: what flows from a data file to a batch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

ROLES = ("system", "user", "assistant")
"""Who speaks; stored rows name them by their places."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Args:
        role: ``system``, ``user`` or ``assistant``.
        content: The text, unescaped.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, and the place they came from.

    Args:
        messages: At least one message; the last is the assistant's, or the text to be classified.
        source: File name, hub id or URI it was read from.
        line: Line (JSONL, CSV: 1-based) or row number in the source.
        label: The class, when the task is classification.
        extra: Further keys of the row, kept aside untouched.
    """

    messages: tuple[Message, ...]
    source: str = ""
    line: int = 0
    label: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """``source:line``, as errors and reports cite it."""
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised conversation.

    Args:
        input_ids: int32 ``[length]``, the whole rendered conversation.
        supervised: bool ``[length]``; True where the token itself is to be predicted
            (by the position before it). Never True at position 0.
        place: ``source:line`` of the conversation.
        label: Class index, when the task is classification.
    """

    input_ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    place: str = ""
    label: int | None = None


def to_dicts(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Messages as requests, templates and files of chats hold them."""
    return [{"role": message.role, "content": message.content} for message in messages]
