"""What the command says of itself."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mlflow_phi3 import __version__
from mlflow_phi3.cli.main import app, main
from mlflow_phi3.config.describe import parameters
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.errors import DataError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("columns", ["40", "80"])
def test_help_names_every_parameter_in_full_however_narrow(word, columns):
    told = CliRunner(env={"COLUMNS": columns}).invoke(app, [word, "--help"])

    assert told.exit_code == 0
    for parameter in parameters(WORDS[word]):
        assert f"  --{parameter.name}" in told.output
        for part in parameter.meaning.split():
            assert part in told.output


def test_help_keeps_to_the_terminal():
    told = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["sweep", "-h"])

    assert max(map(len, told.output.splitlines())) <= 80


def test_plan_tells_its_own_parameters_first():
    told = CliRunner().invoke(app, ["plan", "--help"])

    assert told.output.index("--probe_steps") < told.output.index("--train_data")


@pytest.mark.parametrize("word", ["main", "train", "sweep", "register"])
def test_help_sorts_parameters_by_what_they_are_about(word):
    told = CliRunner().invoke(app, [word, "--help"]).output
    sections = {part.split("\n")[0]: part for part in told.split("\n\n")}

    if word != "register":
        assert "--azure_target" in sections["Azure AI Foundry"]
        assert "--tuned_model" in sections["Azure AI Foundry"]
    if word != "train":
        assert "--backend" not in sections.get("This command", "")
    else:
        assert "Search" not in sections
        assert "--backend" in sections["This command"]
    if word in {"main", "register"}:
        assert "--confidence" in sections["Comparison"]


def test_help_names_no_entry_point_that_the_project_has_not():
    entries = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    for word in (*WORDS, "plan"):
        told = CliRunner().invoke(app, [word, "--help"]).output
        assert set(re.findall(r"mlflow run \. -e (\w+)", told)) == {word} & set(entries)


def test_help_tells_of_what_stands_behind_a_word():
    told = CliRunner().invoke(app, ["sweep", "--help"]).output
    assert "mlflow-phi3 sweep repair STUDY" in told
    assert "mlflow-phi3 plan --json" in CliRunner().invoke(app, ["plan", "--help"]).output


def test_what_is_noted_on_an_error_is_told_with_it(monkeypatch, capsys):
    def fail():
        error = DataError("PHI3-D000", "broken")
        error.add_note("and run 1 could not be closed")
        raise error

    monkeypatch.setattr("mlflow_phi3.cli.main.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert capsys.readouterr().err == "PHI3-D000: broken.\nand run 1 could not be closed\n"


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version_is_told_both_ways(arguments):
    assert CliRunner().invoke(app, arguments).output == f"{__version__}\n"


def test_only_a_job_can_be_cancelled():
    told = CliRunner().invoke(app, ["cancel", "--help"]).output
    assert "A job, as mlflow-phi3 list names it." in told
    assert "name:version" not in told
    assert "name:version" in CliRunner().invoke(app, ["show", "--help"]).output
