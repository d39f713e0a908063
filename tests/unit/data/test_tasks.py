"""Tasks of other packages: the example of the docs, installed."""

import csv
import re
import sys
from pathlib import Path

import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.data.tasks import find_task
from mlflow_phi3.errors import DataError, UsageError

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


@pytest.fixture
def install(tmp_path, monkeypatch):
    def installed(entry, source):
        (tmp_path / "my_tasks.py").write_text(source)
        monkeypatch.delitem(sys.modules, "my_tasks", raising=False)
        info = tmp_path / "my_tasks-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tasks\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mlflow_phi3.tasks]\n{entry}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return installed


@pytest.fixture
def stars(install):
    text = DOCS.read_text()
    (source,) = re.findall(r"```python\n# my_tasks.py\n(.*?)```", text, re.DOTALL)
    (entry,) = re.findall(r"^(stars = \"my_tasks.*)$", text, re.MULTILINE)
    install(entry.replace('"', ""), source)


def write_reviews(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("review", "stars"), *rows])
    return str(path)


def test_the_example_of_the_docs_prepares_labels(stars, tokenizer, tmp_path):
    rows = [
        (f"the {n}th toy is {'fine' if n % 2 else 'broken'}", 5 - 3 * (n % 2)) for n in range(30)
    ]
    config = PrepareConfig(
        train_data=write_reviews(tmp_path / "r.csv", rows),
        task="stars",
        clean_near_duplicates=False,
    )
    data = prepare(config, tokenizer, folder=tmp_path / "prepared")
    assert dict(data.manifest.labels) == {"bad": 0, "good": 1}
    first = data.conversations("train")[0]
    assert first.messages[-1].role == "user"
    assert first.label in {"bad", "good"}
    assert {example.label for example in data.examples("train")} == {0, 1}


def test_a_row_it_cannot_read_is_told_with_its_line(stars, tokenizer, tmp_path):
    rows = [("fine", 5), ("bad", "many"), ("poor", 1)]
    config = PrepareConfig(train_data=write_reviews(tmp_path / "r.csv", rows), task="stars")
    with pytest.raises(DataError, match=r"(?s)PHI3-D027.*r.csv:3|r.csv:3.*PHI3-D027"):
        prepare(config, tokenizer, folder=tmp_path / "prepared")


@pytest.mark.parametrize("slip", ["row['review'].strip()", "row['stars'].split('/')[1]"])
def test_a_slip_of_a_task_is_told_with_its_line(slip, install, tokenizer, tmp_path):
    source = f"from mlflow_phi3.data.tasks import Task\nslips = Task(True, lambda row: {slip})\n"
    install("slips = my_tasks:slips", source)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"review": null, "stars": "5"}\n')
    with pytest.raises(DataError, match=r"PHI3-D027 rows\.jsonl:1: the task cannot read the row"):
        config = PrepareConfig(train_data=str(path), task="slips")
        prepare(config, tokenizer, folder=tmp_path / "prepared")


def test_a_task_that_nobody_brings_is_refused_at_once():
    with pytest.raises(UsageError, match=r"PHI3-U005 task: .*none of chat-completion"):
        parse_values(PrepareConfig, {"task": "stars"})


def test_what_is_no_task_is_refused(install):
    install("odd = my_tasks:odd", "odd = 3\n")
    told = r"PHI3-U067 entry point odd = my_tasks:odd of mlflow_phi3\.tasks: is int, which cannot"
    with pytest.raises(UsageError, match=told):
        find_task("odd")
