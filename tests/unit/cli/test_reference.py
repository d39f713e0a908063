import re
from pathlib import Path

import pytest
import yaml
from mlflow.projects._project_spec import load_project

from mlflow_phi3.cli.reference import PAGES, main, render_parameters, with_hyperparameters
from mlflow_phi3.config.describe import parameters
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.swept import Choices, Interval
from mlflow_phi3.config.words import WORDS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_in_the_repository_are_what_the_code_says(name):
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert PAGES[name](page) == page


def test_a_table_that_lags_behind_is_found_and_written_anew(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "foundry.md").read_text(encoding="utf-8")
    (tmp_path / "foundry.md").write_text(page.replace("| `lora_r` |", "| `rank` |"))
    (tmp_path / "parameters.md").write_text(render_parameters())
    monkeypatch.setattr("mlflow_phi3.cli.reference._DOCS", tmp_path)

    assert main(["--check"]) == 1
    assert "foundry.md: not what the code says. Fix: make docs" in capsys.readouterr().err
    assert main([]) == 0
    assert (tmp_path / "foundry.md").read_text() == page
    assert main(["--check"]) == 0
    with pytest.raises(ValueError, match="not found"):
        with_hyperparameters("a page without a place for it")


def test_a_parameter_is_said_to_be_known_where_it_is_taken_and_as_what():
    rows = {line.split("`")[1]: line for line in render_parameters().splitlines() if "| `" in line}

    assert "| train | Submit the job and return" in rows["detach"]
    assert "detach" not in {parameter.name for parameter in parameters(WORDS["sweep"])}
    assert "`ray`, on a Ray cluster" in rows["backend"]
    assert "train: Where it trains: `local`, in this process; `foundry`" in rows["backend"]


@pytest.mark.parametrize("word", WORDS)
def test_every_parameter_is_documented(word):
    assert not [p.name for p in parameters(WORDS[word]) if len(p.meaning) < 10]


@pytest.mark.parametrize("word", WORDS)
def test_the_root_project_offers_each_word_with_parameters_it_knows(word):
    entry = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][word]

    defaults = {name: value["default"] for name, value in entry["parameters"].items()}
    parse_values(WORDS[word], defaults)
    passed = re.findall(r"--(\w+) \{(\w+)\}", entry["command"])
    assert passed == [(name, name) for name in defaults]


@pytest.mark.parametrize("word", ["main", "sweep"])
def test_what_the_root_project_says_by_itself_does_not_win_over_a_space(word, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: 2e-5..5e-4\nepochs: [2, 4]\n")
    entry = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][word]
    defaults = {name: value["default"] for name, value in entry["parameters"].items()}

    config = parse_values(WORDS[word], {**defaults, "space": str(space)})

    assert config.learning_rate == Interval(2e-5, 5e-4, log=True)
    assert config.epochs == Choices((2, 4))


@pytest.mark.parametrize("word", WORDS)
def test_each_word_is_a_project_of_its_own_around_a_short_script(word):
    folder = ROOT / "projects" / word
    project = load_project(folder)

    assert list(project._entry_points) == ["main"]
    script = project.get_entry_point("main").command.split()[-1]
    assert len((folder / script).read_text().splitlines()) <= 20
    assert Path(project.env_config_path).resolve() == ROOT / "conda.yaml"
