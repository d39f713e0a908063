"""From messages to token ids, with the tokens of each turn known."""

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from mlflow_phi3.data.messages import Message
from mlflow_phi3.data.template import Renderer, Shape, TemplateSource, fill, shape_of
from mlflow_phi3.data.word_lane import Layout, WordLane
from mlflow_phi3.errors import DataError

ALIAS = "\U0010fffe"  # a Unicode noncharacter: validation refuses it in content
_UNREADABLE = "\ufffd"  # what stands for a part of a character
_CHARACTER_BYTES = 4  # at most, in UTF-8
TrainOn = Literal["all-assistant", "last"]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A rendered conversation in tokens.

    Args:
        ids: int32 ``[length]``.
        turns: int32 ``[messages, 3]``: first token of the content, the end of the content, and the
            end of the turn (past its closing special token). Equal numbers for a message that the
            template leaves out.
    """

    ids: Ids
    turns: npt.NDArray[np.int32]

    def supervised_spans(self, roles: Sequence[str], train_on: TrainOn) -> list[tuple[int, int]]:
        """Token ranges ``[start, end)`` to learn: assistants' contents and their closing tokens."""
        spans = [
            (max(start, 1), close)
            for role, (start, _, close) in zip(roles, self.turns.tolist(), strict=True)
            if role == "assistant" and close > max(start, 1)
        ]
        return spans[-1:] if train_on == "last" else spans


class Encoder:
    """Encodes conversations through the model's template; contents cannot forge a turn.

    The reference is one pass of the tokenizer over the rendered text, in which the template's
    special tokens carry private names (:data:`ALIAS`), so that only they are recognised. Where
    it is provably the same, :class:`WordLane` takes over for many conversations at once; every
    ``check_every`` rows both are compared.

    Args:
        source: The tokenizer and its template.
        fast: Allow the word lane.
        check_every: Rows between two comparisons of the lane with the reference.
    """

    def __init__(
        self, source: TemplateSource, *, fast: bool = True, check_every: int = 1000
    ) -> None:
        self._renderer = Renderer(source)
        parsed, self._tokenizer = _aliased(source.tokenizer)
        self._numbers = {name: int(token["id"]) for name, token in parsed["by_name"].items()}
        self._aliases = {name: _alias(number) for name, number in self._numbers.items()}
        self._specials = _any_of(self._aliases)
        self._special_ids = frozenset(self._numbers.values())
        self._skeletons: dict[tuple[Shape, bool], list[str | int]] = {}
        # Shapes of which the template looks into the contents: each row is rendered to be sure.
        self._seeing: set[tuple[Shape, bool]] = set()
        self._lane = WordLane.build(parsed, self._tokenizer, mark=ALIAS) if fast else None
        self._check_every = check_every
        self._seen = 0

    def find_special(self, text: str) -> str | None:
        """The first special-token text within ``text``, if there is one."""
        found = self._specials.search(text)
        return found[0] if found else None

    def encode(self, messages: Sequence[Message], *, prompt: bool = False) -> Encoded:
        """Encode a conversation, by the reference.

        Args:
            messages: The conversation, checked.
            prompt: End with the opening of an assistant's turn, for generation.

        Raises:
            DataError: The template cannot render it.
        """
        return self._reference(self._skeleton_of(messages, prompt=prompt), messages)

    def encode_all(
        self, rows: Sequence[Sequence[Message]], *, prompt: bool = False
    ) -> list[Encoded | DataError]:
        """Encode many conversations; the error stands for one that the template cannot render.

        Args:
            rows: The conversations, checked.
            prompt: End each with the opening of an assistant's turn.

        Raises:
            DataError: The word lane and the reference disagree.
        """
        lane = self._lane
        found: dict[int, Encoded | DataError] = {}
        laid_out: dict[int, tuple[Layout, Sequence[Message]]] = {}
        for place, messages in enumerate(rows):
            try:
                skeleton = self._skeleton_of(messages, prompt=prompt)
                layout = lane.lay_out((shape_of(messages), prompt), skeleton) if lane else None
                if layout is None:
                    found[place] = self._reference(skeleton, messages)
                else:
                    laid_out[place] = layout, messages
            except DataError as error:
                found[place] = error
        if lane and laid_out:
            encoded = lane.encode([*laid_out.values()])
            for place, (ids, turns) in zip(laid_out, encoded, strict=True):
                found[place] = self._checked(Encoded(ids, turns), rows[place], prompt=prompt)
        return [found[place] for place in range(len(rows))]

    def is_special(self, token: int) -> bool:
        """Whether a token is one of the tokenizer's special ones."""
        return token in self._special_ids

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, for people to read; special tokens by their own names.

        A character that several tokens write stands whole at the first; the others are empty.
        """
        names = {_alias(number): name for name, number in self._numbers.items()}
        texts: list[str] = []
        for at, token in enumerate(ids):
            if len(texts) > at:
                continue
            joined = self._join_bytes(ids[at : at + _CHARACTER_BYTES])
            if joined:
                texts += joined
                continue
            raw = self._tokenizer.id_to_token(int(token)) or ""
            blank = raw.startswith("▁")  # which decoding a single token would drop
            text = names.get(raw) or self._tokenizer.decode([int(token)]) or raw.strip("▁")
            texts.append(f" {text}" if blank and not text.startswith(" ") else text)
        return texts

    def _join_bytes(self, ids: Sequence[int]) -> list[str]:
        """The texts of the fewest tokens that make whole characters; empty where one does."""
        if _UNREADABLE not in self._tokenizer.decode([int(ids[0])]):
            return []
        for count in range(2, len(ids) + 1):
            text = self._tokenizer.decode([int(token) for token in ids[:count]])
            if _UNREADABLE not in text:
                return [text, *[""] * (count - 1)]
        return []

    def _skeleton_of(self, messages: Sequence[Message], *, prompt: bool) -> list[str | int]:
        """The template's text around the contents, special tokens by their private names."""
        shape = shape_of(messages)
        known = self._skeletons.get((shape, prompt))
        if known is not None and (shape, prompt) not in self._seeing:
            return known
        found = self._renderer.skeleton(shape, prompt=prompt)
        if fill(found, messages) != self._renderer.render(messages, prompt=prompt):
            raise DataError(
                "PHI3-D023",
                "the chat template changes the contents it renders",
                fix="use a template that writes contents as they are",
            )
        if known is not None:
            return known
        if not self._renderer.is_blind(shape, found, prompt=prompt):
            self._seeing.add((shape, prompt))
        named: list[str | int] = [
            piece
            if isinstance(piece, int)
            else self._specials.sub(lambda found: self._aliases[found[0]], piece)
            for piece in found
        ]
        self._skeletons[shape, prompt] = named
        return named

    def _reference(self, skeleton: list[str | int], messages: Sequence[Message]) -> Encoded:
        pieces: list[str] = []
        where = [(-1, -1)] * len(messages)
        at = 0
        for piece in skeleton:
            text = messages[piece].content if isinstance(piece, int) else piece
            if isinstance(piece, int):
                where[piece] = at, at + len(text)
            pieces.append(text)
            at += len(text)
        encoding = self._tokenizer.encode("".join(pieces), add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        special = np.isin(ids, list(self._special_ids))
        # What closes a turn stands before the content of the next one, if anything does.
        bounds = sorted([*(start for start, _ in where), at])
        turns = [
            _turn(offsets, special, start, end, bounds[bisect_left(bounds, end)])
            for start, end in where
        ]
        return Encoded(ids, np.array(turns, np.int32).reshape(-1, 3))

    def _checked(self, fast: Encoded, messages: Sequence[Message], *, prompt: bool) -> Encoded:
        """The lane's word, compared with the reference every so many rows."""
        self._seen += 1
        if (self._seen - 1) % self._check_every:
            return fast
        slow = self.encode(messages, prompt=prompt)
        if np.array_equal(fast.ids, slow.ids) and np.array_equal(fast.turns, slow.turns):
            return fast
        raise DataError(
            "PHI3-D025",
            "the word lane and the tokenizer disagree on a row",
            fix="report the base model's name and the row as a fault of this package",
        )


def _turn(
    offsets: npt.NDArray[np.int64],
    special: npt.NDArray[np.bool_],
    start: int,
    end: int,
    following: int,
) -> tuple[int, int, int]:
    """Tokens of the characters ``[start, end)``, and past the special token that closes them.

    It is the first between ``end`` and ``following``; where there is none, nothing closes them.
    """
    if start < 0:
        return 0, 0, 0
    # A special token that strips to its right covers the content's leading blanks: not content.
    first = int(np.searchsorted(offsets[:, 0], start, side="left"))
    while first and offsets[first - 1, 1] > start and not special[first - 1]:
        first -= 1
    last = max(int(np.searchsorted(offsets[:, 0], end, side="left")), first)
    closing = np.flatnonzero(special[last : np.searchsorted(offsets[:, 0], following, side="left")])
    return first, last, last + int(closing[0]) + 1 if len(closing) else last


def _alias(token_id: int) -> str:
    return f"{ALIAS}{token_id}{ALIAS}"


def _any_of(texts: Sequence[str] | dict[str, str]) -> re.Pattern[str]:
    """Matches the longest of ``texts`` first, as the tokenizer does; never, when there is none."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


@lru_cache(maxsize=2)
def _aliased(text: str) -> tuple[dict[str, Any], Tokenizer]:
    """The same tokenizer, ids unchanged, whose special tokens answer to private names only.

    Kept for the next encoder: to build one takes longer than to encode a small file.

    Returns:
        The tokenizer's JSON, with its added tokens by their own names under ``by_name``, and the
        tokenizer.
    """
    parsed = json.loads(text)
    vocabulary = parsed["model"]["vocab"]
    by_name = {token["content"]: dict(token) for token in parsed["added_tokens"]}
    for token in parsed["added_tokens"]:
        name = token["content"]
        token["content"] = alias = _alias(token["id"])
        if isinstance(vocabulary, dict) and name in vocabulary:
            vocabulary[alias] = vocabulary.pop(name)
        if parsed["model"].get("unk_token") == name:
            parsed["model"]["unk_token"] = alias
    # The template writes what stands around; a post-processor would add a second <s>.
    parsed["post_processor"] = None
    parsed["truncation"] = parsed["padding"] = None
    tokenizer = Tokenizer.from_str(json.dumps(parsed))
    return {**parsed, "by_name": by_name}, tokenizer
