"""``preview.html``: conversations as the model sees them, the learnt tokens in colour."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.data.collected import Collected, Decided
from mlflow_phi3.data.encode import Encoder
from mlflow_phi3.data.shards import Stored
from mlflow_phi3.pages import page_template

_EACH = 8
_SHOWN_TOKENS = 1500


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is drawn.

    Args:
        text: What it stands for.
        number: Its id.
        learnt: Whether it is predicted in training.
        special: Whether it is one of the template's.
        cut: Whether something was taken away before it.
    """

    text: str
    number: int
    learnt: bool
    special: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A conversation as it is drawn.

    Args:
        place: ``source:line``.
        split: Its split.
        why: Why it was chosen.
        tokens: The first of its tokens.
        total: Number of its tokens.
        learnt: Number of those learnt.
        label: Its class.
    """

    place: str
    split: str
    why: str
    tokens: list[Token]
    total: int
    learnt: int
    label: str | None


def write_preview(folder: Path, given: Collected, decided: Decided) -> None:
    """Draw the longest, the shortest, the shortened and some other conversations of each split."""
    encoder = Encoder(given.settings.template, fast=False)
    shown = list(_choose(given, decided, encoder))
    page = page_template("mlflow_phi3.data", "pages/preview.html.jinja")
    html = page.render(shown=shown, limit=_SHOWN_TOKENS)
    (folder / "preview.html").write_text(html, encoding="utf-8")


def _choose(given: Collected, decided: Decided, encoder: Encoder) -> Iterator[Shown]:
    table = decided.table
    for split in SPLITS:
        rows = np.unique(decided.splits[split])
        # By hash, so that the choice is the same each time and not the file's beginning.
        order = np.argsort(table.keys[rows, 1], kind="stable")[:400]
        some = [table.store.stored(int(table.addresses[rows[at]])) for at in order]
        if not some:
            continue
        ranked = sorted(some, key=lambda row: len(row.encoded.ids))
        chosen = [(ranked[-1], "longest looked at"), (ranked[0], "shortest looked at")]
        chosen += [(row, "shortened") for row in some if row.cut >= 0][:2]
        chosen += [(row, "by chance") for row in some]
        seen: set[tuple[int, int]] = set()
        for row, why in chosen:
            if (row.source, row.line) not in seen and len(seen) < _EACH:
                seen.add((row.source, row.line))
                place = f"{given.planned[row.source].source.name}:{row.line}"
                yield _show(row, split, why, place, encoder)


def _show(row: Stored, split: str, why: str, place: str, encoder: Encoder) -> Shown:
    learnt = np.zeros(len(row.encoded.ids), np.bool_)
    for start, end in row.supervised:
        learnt[start:end] = True
    ids = row.encoded.ids[:_SHOWN_TOKENS].tolist()
    tokens = [
        Token(text, number, bool(learnt[at]), encoder.is_special(number), at == row.cut)
        for at, (text, number) in enumerate(zip(encoder.decode(ids), ids, strict=True))
    ]
    return Shown(place, split, why, tokens, len(row.encoded.ids), int(learnt.sum()), row.label)
