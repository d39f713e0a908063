"""What the person sees: one live line on a terminal, plain lines elsewhere, or JSON lines."""

import json
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from mlflow_phi3.evaluation.notation import NONE

# Seconds between two plain progress lines of one stage: enough to see life, little enough to read.
_PLAIN_EVERY_S = 5.0
_PLAIN_WIDTH = 160
# Share of a stage after which its pace is worth telling.
_TELLING = 0.02
# Letters up to which the first column holds names, and up to which any word stays whole.
_NAME, _WORD = 30, 16
_NO_TIME = "-:--"
_NO_FIGURES = {"", "?", "-", NONE, "nan"}


class Update(Protocol):
    """Tells how far a stage is."""

    def __call__(self, text: str, done: float | None = None) -> None:
        """Say ``text``; ``done`` is the share of the stage that is over, 0 to 1, if known."""


class Screen:
    """The one way a workflow speaks to a person or a machine.

    Args:
        output: As ``output`` of :class:`mlflow_phi3.config.context.ContextConfig`.
    """

    def __init__(self, output: Literal["auto", "plain", "json"] = "auto") -> None:
        self._json = output == "json"
        self._live = output == "auto" and sys.stdout.isatty()
        # Without a terminal there is no width to keep to; a table cut at 80 letters helps nobody.
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        # No emoji: they would be made of row 100 in ``chats.jsonl:100: ...``.
        self.console = Console(highlight=False, soft_wrap=True, width=width, emoji=False)

    def say(self, text: str, *, event: str = "message", **facts: object) -> None:
        """Print a line, or ``facts`` as a JSON object of kind ``event``.

        The line is rich markup: :func:`rich.markup.escape` what others wrote into it.
        """
        if self._json:
            plain = self.console.render_str(text).plain
            print(json.dumps({"event": event, "text": plain, **facts}), flush=True)  # noqa: T201 - JSON lines are for machines
        else:
            self.console.print(text)

    def facts(self, event: str, **facts: object) -> None:
        """Print ``facts`` as a JSON object, for machines alone: a person reads a table instead."""
        if self._json:
            self.say("", event=event, **facts)

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """A stage with progress; announces its end with the time it took."""
        started = time.monotonic()
        if self._live:
            with self._bar() as bar:
                yield self._line(bar, name)
        else:
            yield self._lines(name)
        seconds = time.monotonic() - started
        self.say(
            f"[green]✓[/] [bold]{name}[/] in {seconds:.1f} s", event="stage", stage=name, s=seconds
        )

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]
    ) -> None:
        """Print a table; its cells are taken as they are, without markup.

        Where it is too wide for the terminal to keep its words and figures whole, each row is a
        line of names and values instead.
        """
        if self._json:
            for row in rows:
                facts = dict(zip(columns, map(str, row), strict=True))
                self.say("", event=title, **facts)
            return
        table = _draw(title, columns, rows)
        drawn = "".join(part.text for line in self.console.render_lines(table) for part in line)
        if all(word in drawn for word in _unbroken(table)):
            self.console.print(table)
            return
        self.console.print(Text(title, style="italic"))
        for row in rows:
            told = Text(_as_lines(columns, row, self.console.width))
            told.stylize("bold", 0, len(row[0]))
            self.console.print(told)

    def _bar(self) -> Progress:
        # The text takes what the others leave, and is cut where that is too little.
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        return Progress(
            TextColumn("  [bold]{task.description}"),
            BarColumn(bar_width=min(24, self.console.width // 8)),
            TimeElapsedColumn(),
            TextColumn("[cyan]{task.fields[left]}"),
            TextColumn("{task.fields[text]}", markup=False, table_column=rest),
            console=self.console,
            transient=True,
            expand=True,
        )

    def _line(self, bar: Progress, name: str) -> Update:
        task = bar.add_task(name, total=1.0, text="", left=_NO_TIME)
        pace = _Pace()

        def update(text: str, done: float | None = None) -> None:
            left_s = pace.left_s(time.monotonic(), done)
            left = _NO_TIME if left_s is None else _clock(left_s)
            bar.update(task, completed=done, text=text, left=left)

        return update

    def _lines(self, name: str) -> Update:
        last = 0.0
        pace = _Pace()

        def update(text: str, done: float | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            left_s = pace.left_s(now, done)
            if now - last < _PLAIN_EVERY_S:
                return
            last = now
            share = "" if done is None else f" {done:4.0%}"
            left = "" if left_s is None else f", {_clock(left_s)} left"
            self.say(
                f"  {name}{share} {escape(text)}{left}",
                event="progress",
                stage=name,
                done=done,
                left_s=left_s,
            )

        return update


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for at, (column, *cells) in enumerate(zip(columns, *rows, strict=True)):
        figures = all(_is_figure(str(cell)) for cell in cells)
        table.add_column(
            Text(column),
            justify="right" if figures else "left",
            overflow="fold",
            no_wrap=figures or (at == 0 and all(len(cell) <= _NAME for cell in cells)),
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _unbroken(table: Table) -> Iterator[str]:
    """What must be whole: names, figures with their heads, and all but very long words."""
    for column in table.columns:
        for cell in map(str, (column.header, *column.cells)):
            yield from [cell] if column.no_wrap else (w for w in cell.split() if len(w) <= _WORD)


def _as_lines(columns: Sequence[str], row: Sequence[str | Text], width: int) -> str:
    """``trial-005  loss 2.61, state complete``; the one value of a row of two needs no name."""
    named = [(column, str(cell)) for column, cell in zip(columns, row, strict=True) if str(cell)]
    values = ", ".join(cell if len(columns) == 2 else f"{name} {cell}" for name, cell in named[1:])
    lines = textwrap.wrap(
        f"{row[0]}  {values}",
        width,
        subsequent_indent="    ",
        # An address stays whole, to be copied, though it be longer than the line.
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


class _Pace:
    """How fast a stage goes, from the share on that it told first: a continued one begins late."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left_s(self, now: float, done: float | None) -> float | None:
        """Seconds that the stage takes yet, if it goes on so; None while that says nothing.

        Args:
            now: The moment, seconds.
            done: The share that is over.
        """
        if done is None:
            return None
        self._first = self._first or (now, done)
        spent_s, gained = now - self._first[0], done - self._first[1]
        if spent_s < _PLAIN_EVERY_S or gained < _TELLING or done >= 1:
            return None
        return round(spent_s * (1 - done) / gained, 1)


def _clock(seconds: float) -> str:
    """``1:05``, ``2:00:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_figure(cell: str) -> bool:
    """Whether a table's cell is a number, with its unit perhaps, or says that there is none."""
    begins = cell.lstrip("+-$").startswith(tuple("0123456789"))
    return cell in _NO_FIGURES or (begins and not re.search(r"[A-Za-z]{5}", cell))
