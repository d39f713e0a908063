"""Reference pages, written from the code: ``python -m mlflow_phi3.cli.reference [--check]``."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow_phi3.azure.hyperparameters import render_table
from mlflow_phi3.config.describe import Parameter, parameters
from mlflow_phi3.config.words import WORDS

_DOCS = Path(__file__).parents[2] / "docs"
_BEGIN, _END = "<!-- hyperparameters: make docs -->\n", "<!-- end of hyperparameters -->\n"

_INTRODUCTION = """\
# Parameters

Written by `make docs` from the schemas in `mlflow_phi3/config/`. Give what `main` knows to
`mlflow run . -P name=value`, what another word knows to its entry point
(`mlflow run . -e train -P name=value`), or to the command (`mlflow-phi3 train --name value`). An
empty value stands for the default. A name that the word does not know or a value of the wrong kind
stops the program before anything runs.
"""


def render_parameters() -> str:
    """The page of all parameters: each once, with the words that know it."""
    known: dict[str, dict[str, Parameter]] = {}
    for word, schema in WORDS.items():
        for parameter in parameters(schema):
            known.setdefault(parameter.name, {})[word] = parameter
    lines = [
        _INTRODUCTION,
        "| parameter | default | known to | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, by_word in sorted(known.items()):
        cells = (f"`{name}`", _default(by_word), ", ".join(by_word), _meaning(by_word))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _default(by_word: dict[str, Parameter]) -> str:
    """The default, and beside it those of the words that have another."""
    usual = next(iter(by_word.values())).default
    others = [f"{w}: `{p.default}`" for w, p in by_word.items() if p.default != usual]
    shown = [f"`{usual}`"] if usual else []
    return "; ".join([*shown, *others])


def _meaning(by_word: dict[str, Parameter]) -> str:
    """The meaning, and behind it those of the words to which it means something else."""
    usual = next(iter(by_word.values())).meaning
    others = [f"{w}: {p.meaning}" for w, p in by_word.items() if p.meaning != usual]
    return " ".join([usual, *others]).replace("|", "\\|")


def with_hyperparameters(page: str) -> str:
    """A page with the table of what Foundry takes between its two marks.

    Raises:
        ValueError: It lacks one of the marks.
    """
    begin, end = page.index(_BEGIN) + len(_BEGIN), page.index(_END)
    return f"{page[:begin]}\n{render_table()}\n{page[end:]}"


PAGES: Mapping[str, Callable[[str], str]] = {
    "parameters.md": lambda _page: render_parameters(),
    "foundry.md": with_hyperparameters,
}
"""What each page of ``docs`` that is written from the code becomes of what it is."""


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say whether they are as they would be written."""
    stale = []
    for name, written in PAGES.items():
        page = (_DOCS / name).read_text(encoding="utf-8")
        if page != written(page):
            stale.append(name)
            if "--check" not in arguments:
                (_DOCS / name).write_text(written(page), encoding="utf-8")
    if not stale or "--check" not in arguments:
        return 0
    print(f"{', '.join(stale)}: not what the code says. Fix: make docs", file=sys.stderr)  # noqa: T201 - a program
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
