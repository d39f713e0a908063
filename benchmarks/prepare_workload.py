"""Conversations by the million for `benchmarks/prepare.py`: made up, but shaped like chats."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SEED = 20240901
_BLOCK = 10_000
_ZIPF = 1.05  # exponent of word frequencies in natural text (Zipf: Human Behavior, 1949)
_VOCABULARY = 60_000
_SYSTEMS = (
    "You are a helpful, friendly assistant.",
    "You answer questions about games consoles. Be factual and concise.",
    "You are a support agent for a bank. Never ask for a password.",
)


def write_conversations(path: Path, rows: int, words: list[str]) -> None:
    """Write ``rows`` conversations of about 1 KB, one JSON object a line.

    A third has a system message, a third has two exchanges; 1 row in 100 repeats an earlier one and
    1 in 100 repeats one with a word changed. The same ``rows`` and ``words`` give the same bytes.

    Args:
        path: The JSONL file.
        rows: How many.
        words: Words to write with, the commonest first.
    """
    random = np.random.default_rng(SEED)
    known = np.array(_enlarge(words, random), dtype=object)
    weights = 1.0 / np.arange(1, len(known) + 1) ** _ZIPF
    cumulative = np.cumsum(weights / weights.sum())
    with path.open("w", encoding="utf-8") as out:
        for start in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - start)
            lengths = np.clip(random.lognormal(3.68, 0.6, (count, 4)).astype(int), 4, 400)
            places = np.searchsorted(cumulative, random.random(int(lengths.sum())))
            texts = iter(known[np.minimum(places, len(known) - 1)])
            block = [
                _row(sizes, texts, int(kind))
                for sizes, kind in zip(
                    lengths.tolist(), random.integers(0, 300, count), strict=True
                )
            ]
            for at in range(1, count):
                draw = random.random()
                if draw < 0.01:
                    block[at] = block[at - 1]
                elif draw < 0.02:
                    block[at] = _changed(block[at - 1])
            lines = (json.dumps({"messages": row}, ensure_ascii=False) for row in block)
            out.writelines(f"{line}\n" for line in lines)


def _enlarge(words: list[str], random: np.random.Generator) -> list[str]:
    """Join words to rarer ones until there are as many as natural text of this size has."""
    pairs = random.integers(0, len(words), (max(_VOCABULARY - len(words), 0), 2))
    return [*words, *(words[one] + words[two] for one, two in pairs.tolist())]


def _row(sizes: list[int], texts: Iterator[str], kind: int) -> list[dict[str, str]]:
    turns = ["user", "assistant"] * (2 if kind % 3 == 0 else 1)
    if len(turns) == 2:
        sizes = [sizes[0] + sizes[2], sizes[1] + sizes[3]]
    messages = [{"role": "system", "content": _SYSTEMS[kind % 9 // 3]}] if kind % 9 < 3 else []
    for role, size in zip(turns, sizes, strict=False):
        content = " ".join(next(texts) for _ in range(size))
        end = "?" if role == "user" else "."
        messages.append({"role": role, "content": content[:1].upper() + content[1:] + end})
    return messages


def _changed(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    last = messages[-1]
    return [*messages[:-1], {**last, "content": last["content"] + " Thanks."}]
