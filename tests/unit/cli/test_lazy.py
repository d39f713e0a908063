"""Commands that are imported when they are called."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mlflow_phi3.cli.lazy import COMMANDS
from mlflow_phi3.cli.main import app


@pytest.mark.parametrize("module", sorted({one.module for one in COMMANDS}))
def test_every_command_of_a_module_is_listed(module):
    listed = {one.name for one in COMMANDS if one.module == module}
    found = next(one for one in COMMANDS if one.module == module).app()
    assert {command.name for command in found.registered_commands} == listed


def test_the_list_of_commands_imports_nothing_heavy():
    code = (
        "import sys; import mlflow_phi3.cli.main as m; "
        "print(sorted({'torch', 'mlflow', 'azure', 'optuna', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_arguments_reach_the_command():
    told = CliRunner().invoke(app, ["models", "--help"])
    assert told.exit_code == 0
    assert "--live" in told.output
    told = CliRunner().invoke(app, ["delete", "--help"])
    assert "--cascade" in told.output
    told = CliRunner().invoke(app, ["models", "--nonsense"])
    assert told.exit_code == 2
    told = CliRunner().invoke(app, ["--help"])
    assert all(one.name in told.output for one in COMMANDS)


def test_the_paragraphs_of_help_are_filled():
    told = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["models", "--help"]).output
    assert "(exit code 4), with" in " ".join(told.split())
    assert not [line for line in told.splitlines() if line.strip() in {"code 4), with", "4), with"}]


@pytest.mark.parametrize("name", ["version", "emulator", *sorted(one.name for one in COMMANDS)])
def test_every_command_takes_the_short_form_of_help(name):
    short, long = (CliRunner().invoke(app, [name, option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert "--install-completion" not in long.output
