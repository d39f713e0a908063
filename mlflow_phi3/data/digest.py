"""Digests: what a row says, what it asks, and what a file or a split holds."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.messages import Message

Keys = npt.NDArray[np.uint64]


def row_keys(messages: Sequence[Message], label: str | None) -> tuple[bytes, bytes]:
    """128-bit keys of the whole row and of its prompt.

    Equal keys mean equal text. The prompt is what the users said and the assistant answered before
    the last answer, without the system message: rows that ask the same under two system messages
    belong on one side of a split.
    """
    framed = [_framed(message) for message in messages]
    asked = framed[:-1] if messages[-1].role == "assistant" else framed
    prompt = b"".join(
        part for message, part in zip(messages, asked, strict=False) if message.role != "system"
    )
    whole = b"".join(framed)
    if label is not None:
        whole += b"\x00" + label.encode()
    return _hash(whole), _hash(prompt)


def to_keys(digests: Iterable[tuple[bytes, bytes]]) -> Keys:
    """uint64 ``[rows, 4]``: whole row (two words), prompt (two words)."""
    joined = b"".join(whole + prompt for whole, prompt in digests)
    return np.frombuffer(joined, np.uint64).reshape(-1, 4)


def digest_keys(keys: Keys) -> str:
    """SHA-256 over the keys of all rows, in order."""
    return hashlib.sha256(np.ascontiguousarray(keys[:, :2]).tobytes()).hexdigest()


def digest_text(*texts: str) -> str:
    """SHA-256 over texts in order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _framed(message: Message) -> bytes:
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    content = message.content.encode()
    return b"%c%d:%b" % (message.role[0].encode(), len(content), content)
