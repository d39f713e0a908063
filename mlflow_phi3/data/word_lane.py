"""The fast lane of tokenisation: each word of a block of texts is tokenised once.

A SentencePiece-style BPE (Phi-3, Phi-3.5, Llama) writes every blank as ``▁`` and merges over the
whole text at once, which defeats the cache that other tokenizers keep by word. Yet when no token of
the vocabulary has a ``▁`` after another character, no merge can cross the place before a run of
``▁``: the text may be cut there. Arrow numbers the different words of a block, the tokenizer's own
model merges each of them once, and numpy puts the ids in order. The ids are the same.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from mlflow_phi3.data.messages import Message

# What Rust's ``\s`` matches, which a token with ``rstrip`` swallows; Python's adds U+001C..1F.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LEADING = re.compile(f"[{_BLANKS}]+")
_CACHED_WORDS = 200_000  # about 50 MB
_CACHED_LENGTH = 40
_BLANK = ord(" ")

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a template shows a content.

    Args:
        number: The message.
        strips: Whether the special token before it swallows the content's leading blanks.
    """

    number: int
    strips: bool


Layout = tuple[Ids | Slot, ...]


class WordLane:
    """Encodes conversations whose contents stand exactly between special tokens."""

    def __init__(
        self, tokenizer: Tokenizer, specials: dict[str, tuple[int, bool]], prefix: str, mark: str
    ) -> None:
        self._model = tokenizer.model
        self._specials = specials
        self._prefix = prefix
        self._split = re.compile(f"({mark}[0-9]+{mark})")
        self._words: dict[str, list[int]] = {}
        self._layouts: dict[Hashable, Layout | None] = {}

    @classmethod
    def build(cls, parsed: dict[str, Any], tokenizer: Tokenizer, *, mark: str) -> "WordLane | None":
        """The lane for a tokenizer, or None where cutting at blanks is not provably the same.

        Args:
            parsed: The tokenizer's JSON, its special tokens already under private names.
            tokenizer: The tokenizer built from it.
            mark: The character around a private name.
        """
        prefix = _prefix_of(parsed)
        plain = all(
            not (token["lstrip"] or token["single_word"] or token["normalized"])
            for token in parsed["added_tokens"]
        )
        if prefix is None or not plain or not _merges_within_words(parsed["model"], mark):
            return None
        specials = {
            token["content"]: (int(token["id"]), bool(token["rstrip"]))
            for token in parsed["added_tokens"]
        }
        return cls(tokenizer, specials, prefix, mark)

    def lay_out(self, key: Hashable, skeleton: Sequence[str | int]) -> Layout | None:
        """Fixed ids and contents in turn; None when text of the template touches a content.

        Args:
            key: Names the skeleton.
            skeleton: The template's text around message numbers, special tokens by private names.
        """
        if key not in self._layouts:
            self._layouts[key] = self._read(skeleton)
        return self._layouts[key]

    def encode(self, rows: Sequence[tuple[Layout, Sequence[Message]]]) -> list[tuple[Ids, Ids]]:
        """Ids and turns of each row, as :class:`~mlflow_phi3.data.encode.Encoded` has them."""
        if not rows:
            return []
        contents = [
            _strip(messages[step.number].content) if step.strips else messages[step.number].content
            for layout, messages in rows
            for step in layout
            if isinstance(step, Slot)
        ]
        ids, bounds = self._tokenise(contents)
        spans = iter(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        parts: list[Ids] = []
        turns: list[tuple[int, int, int]] = []
        row_ends, turn_ends = [0], [0]
        for layout, messages in rows:
            own = [(0, 0, 0)] * len(messages)
            at = 0
            for step in layout:
                if isinstance(step, Slot):
                    start, end = next(spans)
                    parts.append(ids[start:end])
                    own[step.number] = (at, at + end - start, at + end - start + 1)
                    at += end - start
                else:
                    parts.append(step)
                    at += len(step)
            turns += own
            row_ends.append(row_ends[-1] + at)
            turn_ends.append(len(turns))
        joined, table = np.concatenate(parts), np.array(turns, np.int32)
        return [
            (joined[row_ends[row] : row_ends[row + 1]], table[turn_ends[row] : turn_ends[row + 1]])
            for row in range(len(rows))
        ]

    def _tokenise(self, contents: Iterable[str]) -> tuple[Ids, Places]:
        """The ids of all contents, and where each content's begin; the end is the last place."""
        # ▁ in a text and a blank are one and the same to this kind of tokenizer. What the
        # tokenizer puts before a text, it does not put before an empty one.
        texts = [
            (self._prefix + content).replace("▁", " ").encode() if content else b""
            for content in contents
        ]
        data = np.frombuffer(b"".join(texts), np.uint8)
        starts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=starts[1:])
        blank = data == _BLANK
        begins = blank.copy()
        begins[1:] &= ~blank[:-1]
        begins[starts[starts < len(data)]] = True
        cuts = np.flatnonzero(begins)
        ends = np.append(cuts, len(data)).astype(np.int32)
        pieces = pa.StringArray.from_buffers(len(cuts), pa.py_buffer(ends), pa.py_buffer(data))
        numbered = pieces.dictionary_encode()
        ids, places = _gather(
            self._merge(numbered.dictionary.to_pylist()), numbered.indices.to_numpy()
        )
        return ids, places[np.searchsorted(cuts, starts)]

    def _merge(self, words: Sequence[str]) -> list[list[int]]:
        """The ids of each word; what is met for the first time is tokenised."""
        known = [*map(self._words.get, words)]
        if len(self._words) > _CACHED_WORDS:
            self._words.clear()
        return [
            self._merge_new(word) if ids is None else ids
            for word, ids in zip(words, known, strict=True)
        ]

    def _merge_new(self, word: str) -> list[int]:
        ids = [token.id for token in self._model.tokenize(word.replace(" ", "▁"))]
        if len(word) <= _CACHED_LENGTH:
            self._words[word] = ids
        return ids

    def _read(self, skeleton: Sequence[str | int]) -> Layout | None:
        steps: list[Ids | Slot] = []
        fixed: list[int] = []  # special tokens since the last content
        strips = False
        for piece in skeleton:
            if isinstance(piece, int):
                if not fixed:
                    return None
                steps += [np.array(fixed, np.int32), Slot(piece, strips)]
                fixed, strips = [], False
                continue
            for text in filter(None, self._split.split(piece)):
                special = self._specials.get(text)
                if special is not None:
                    fixed.append(special[0])
                    strips = special[1]
                elif not (strips and _LEADING.fullmatch(text)):
                    return None
        return (*steps, np.array(fixed, np.int32)) if fixed else None


def _gather(known: Sequence[Sequence[int]], numbers: npt.NDArray[np.int32]) -> tuple[Ids, Places]:
    """The ids of the words ``numbers`` one after another, and where each word's ids begin."""
    flat = np.fromiter(chain.from_iterable(known), np.int32)
    sizes = np.fromiter(map(len, known), np.int64, len(known))
    first = np.cumsum(sizes) - sizes
    lengths = sizes[numbers]
    places = np.zeros(len(numbers) + 1, np.int64)
    np.cumsum(lengths, out=places[1:])
    shift = np.repeat(first[numbers] - places[:-1], lengths)
    return flat[shift + np.arange(len(shift))], places


def _strip(content: str) -> str:
    blanks = _LEADING.match(content)
    return content[blanks.end() :] if blanks else content


def _merges_within_words(model: dict[str, Any], mark: str) -> bool:
    """Whether no merge crosses the place before a run of ``▁``, and nothing else looks beyond it.

    With ``▁`` itself in the vocabulary, not even unknown characters are fused across it.
    """
    changes = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(name) for name in changes):
        return False
    vocabulary = model["vocab"]
    inside = any("▁" in token.lstrip("▁") for token in vocabulary if mark not in token)
    return "▁" in vocabulary and not inside


def _prefix_of(parsed: dict[str, Any]) -> str | None:
    """What the tokenizer puts before a text that follows a special token; None if not known."""
    cutter, normalizer = parsed.get("pre_tokenizer"), parsed.get("normalizer")
    if normalizer is None and cutter and cutter["type"] == "Metaspace":
        if cutter.get("split", True) or cutter["replacement"] != "▁":
            return None
        # "first" is a text's very beginning, where a special token stands.
        return {"first": "", "never": ""}.get(cutter["prepend_scheme"])
    legacy = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    return " " if cutter is None and normalizer == legacy else None
