"""Tokens to text as they come, cut at stop sequences."""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase as Tokenizer


class TextStream:
    """The text of one answer, piece by piece.

    Text is held back while it could still become part of a stop sequence, or of a character whose
    bytes are not all there.

    Args:
        tokenizer: Of the model that generates.
        stop: Sequences that end the answer and do not belong to it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._unread: list[int] = []  # tokens whose bytes are not yet a character
        self._stop = tuple(stop)
        self._held = ""
        self.length = 0
        """Characters of all that was read, what a stop sequence cuts off included."""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token; return the text that is now certain, often empty."""
        if self.stopped:
            return ""
        text = self._read(token)
        self.length += len(text)
        self._held += text
        found = [(self._held.find(stop), len(stop)) for stop in self._stop]
        # The sequence that is complete first ends the answer, as if letters came one by one.
        ended = min(((at + size, at) for at, size in found if at >= 0), default=None)
        if ended:
            self.stopped = True
            self._held = self._held[: ended[1]]
            return self.finish()
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    def finish(self) -> str:
        """There are no more tokens; return what was held back."""
        rest, self._held = self._held, ""
        if self._unread:
            rest += self._tokenizer.decode(self._unread, skip_special_tokens=True)
        return rest

    def _read(self, token: int) -> str:
        """The characters that are complete with ``token``."""
        self._unread.append(token)
        try:
            text = self._decoder.step(self._tokenizer.backend_tokenizer, token)
        except Exception:  # noqa: BLE001 - tokenizers raises nothing narrower
            # A later byte made a broken character of bytes that had been a whole one. That one is
            # given and stays; the rest is read by itself, and is what the next tokens follow.
            text = self._tokenizer.decode(self._unread, skip_special_tokens=True)
            self._decoder = DecodeStream(self._unread, skip_special_tokens=True)
        if text is None:
            return ""
        self._unread.clear()
        return str(text)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(text), len(stop))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
