import json
from types import SimpleNamespace

import pytest

from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.config.words import PrepareWord
from mlflow_phi3.data import pipeline
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.base import DEMO, load_tokenizer
from mlflow_phi3.workflows import prepare as workflow
from mlflow_phi3.workflows.screen import Screen


@pytest.fixture(params=["anew", "found"])
def data(request, tmp_path):
    rows = [
        {"question": f"What is [bold]{n}[/] plus one?", "answer": f"{n + 1} <|end|>" if n else "1"}
        for n in range(12)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = PrepareConfig(
        train_data=str(path), validation_split=0, test_split=0, clean_near_duplicates=False
    )
    for _ in range(1 if request.param == "anew" else 2):
        data = pipeline.prepare(config, load_tokenizer(DEMO), folder=tmp_path / "cache")
    return data


def test_each_warning_is_told_in_a_line(data, capsys):
    workflow.warn(Screen("plain"), data)
    special, few = capsys.readouterr().out.splitlines()
    assert special.startswith("  warning 11 x PHI3-D016, first at train.jsonl:2: message 2 ")
    assert special.endswith(" holds '<|end|>' (rule: content holds no special token's text)")
    told = "rows to train on: 12 (rule: there are at least 50 rows)"
    assert few == f"  warning 1 x PHI3-D038, first at train.jsonl: {told}"


def test_machines_are_told_each_warning(data, capsys):
    workflow.warn(Screen("json"), data)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["event"], line["code"], line["count"], line["place"]) for line in lines] == [
        ("warning", "PHI3-D016", 11, "train.jsonl:2"),
        ("warning", "PHI3-D038", 1, "train.jsonl"),
    ]


def test_the_step_tells_its_warnings_and_logs_their_number(tracker, tmp_path, capsys):
    path = tmp_path / "train.jsonl"
    rows = [{"question": f"What is {n}?", "answer": f"{n} <|end|>"} for n in range(12)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = [f"--train-data={path}", "--validation-split=0", "--test-split=0"]
    config = parse_arguments(PrepareWord, [*arguments, "--clean-near-duplicates=false"])
    context = SimpleNamespace(workspace=tmp_path / "work", screen=Screen("plain"))
    with tracker.stage("prepare", stage="prepare") as run:
        workflow.prepare(context, config, run)
    assert run.client.get_run(run.run_id).data.metrics["data/warnings"] == 13
    assert "warning 12 x PHI3-D016, first at train.jsonl:1" in capsys.readouterr().out


def test_a_hub_that_is_away_is_asked_once(tmp_path, monkeypatch):
    def away(*_, **__):
        raise PreflightError("PHI3-P092", "the hub cannot be reached")

    monkeypatch.setattr(workflow, "read_context_length", away)
    monkeypatch.setattr(workflow, "load_tokenizer", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(PreflightError):
        workflow.prepare_data(PrepareWord(model="a/b"), tmp_path, Screen("plain"))
