"""What the pages tell people to type is what the commands understand."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from mlflow_phi3.cli.lazy import COMMANDS
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.config.parse import parse_arguments, parse_values
from mlflow_phi3.config.words import WORDS

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def told(page):
    """The commands of a page as lists of words; what stands for the reader's own becomes ``x``."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        plain = re.sub(r"<[^>]*>", "x", line.removeprefix("$ "))
        if re.match(r"(mlflow-phi3|mlflow run|mlflow deployments) ", plain):
            yield shlex.split(plain, comments=True)


def values_behind(flag, words):
    pairs = [words[at + 1].split("=", 1) for at, word in enumerate(words[:-1]) if word == flag]
    assert len(dict(pairs)) == len(pairs)  # MLflow refuses a name that stands twice
    return dict(pairs)


COMMAND_LINES = [
    pytest.param(words, id=f"{page.stem}-{' '.join(words)[:60]}")
    for page in PAGES
    for words in told(page)
]


def test_there_are_commands_to_hold():
    assert len(COMMAND_LINES) > 50


@pytest.mark.parametrize("words", COMMAND_LINES)
def test_a_command_of_the_pages_is_understood(words):
    program, name, *rest = words
    if (program, name) == ("mlflow", "deployments"):
        assert set(values_behind("-C", rest)) <= set(DeployConfig.model_fields)
    elif (program, name) == ("mlflow", "run"):
        word = rest[rest.index("-e") + 1] if "-e" in rest else "main"
        parse_values(WORDS[word], values_behind("-P", rest))
    elif name in WORDS and rest[:1] != ["repair"]:
        parse_arguments(WORDS[name], rest)
    else:
        found = {one.name: one for one in COMMANDS}.get(name)
        if found is not None:
            command = get_command(found.app())
            known = getattr(command, "commands", {name: command})
            known[name].make_context(name, rest)


def test_an_environment_that_was_half_made_is_no_environment(tmp_path):
    python, made = tmp_path / "python3", tmp_path / "venv" / "bin" / "python"
    # As on Debian without python3-venv: the interpreter is linked, and then pip is missing.
    python.write_text(
        f'#!/bin/sh\n[ "$2" = venv ] || exit 0\nmkdir -p "$3/bin"; touch {made}; exit 1'
    )
    python.chmod(0o755)
    asked = ["make", f"PYTHON={python}", f"VENV={tmp_path}/venv", str(made)]
    assert subprocess.run(asked, cwd=ROOT, check=False, capture_output=True).returncode
    assert not made.exists()


def test_make_run_passes_what_its_help_says_in_place_of_its_own():
    def made(*words):
        asked = ["make", "--no-print-directory", *words]
        # A make that has started these tests hands on what it was given itself.
        handed = {"ARGS", *(name for name in os.environ if "MAKE" in name)}
        own = {name: value for name, value in os.environ.items() if name not in handed}
        done = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True, env=own)
        return done.stdout

    (example,) = re.findall(r"`make (run .*)`", made("help"))
    commands = [
        shlex.split(made("-n", "-o", ".venv/bin/.installed", *words).splitlines()[-1])
        for words in (["run"], shlex.split(example))
    ]
    found = [values_behind("-P", words) for words in commands]
    assert found == [{"epochs": "3"}, {"epochs": "2"}]
    assert all(parse_values(WORDS["main"], values) for values in found)
