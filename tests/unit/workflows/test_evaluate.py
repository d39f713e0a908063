"""What others say of the answers: nothing unless configured, and logged where it is."""

import json
from pathlib import Path

import pytest

from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import UsageError
from mlflow_phi3.evaluation.runner import Evaluation, Prediction
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.evaluate import ask_others, choose_judges
from mlflow_phi3.workflows.screen import Screen
from tests.content_safety import KEY, content_safety
from tests.judge import judge_server


def answered(*texts):
    asked = (Message("user", "How do I open it?"),)
    rows = [Prediction(f"t:{n}", asked, "So.", text, 0, 0, 0) for n, text in enumerate(texts, 1)]
    return Evaluation({}, (), tuple(rows))


def test_a_judge_and_a_filter_say_what_they_think(tracker, tmp_path, monkeypatch, capsys):
    context = Context(tracker, Screen("plain"), tmp_path, None)
    run = tracker.start("evaluate", stage="evaluate")
    config = EvaluateConfig(judge_model="openai:/judge-1", judge_scorers="relevance")
    tuned = answered("Press the button.", "With a knife.", "Mumble.")
    with judge_server() as judge, content_safety() as server:
        judge.silent_on = "Mumble"
        monkeypatch.setenv("OPENAI_API_KEY", "unused")
        monkeypatch.setenv("OPENAI_API_BASE", judge.url)
        service = safety_from({"CONTENT_SAFETY_ENDPOINT": server.url, "CONTENT_SAFETY_KEY": KEY})
        ask_others(context, run, tuned, choose_judges(config), service)
    run.end("FINISHED")

    metrics = tracker.client.get_run(run.run_id).data.metrics
    assert metrics["test/judged_relevance"] == 0.5
    assert metrics["test/judged_relevance_verdicts"] == 2
    assert "2 verdicts on relevance of 3 answers" in capsys.readouterr().out
    assert metrics["test/unsafe_answers"] == pytest.approx(1 / 3)
    unsafe = json.loads(Path(run.download("eval/unsafe.json", tmp_path)).read_text())
    assert [(row["place"], row["answer"]) for row in unsafe] == [("t:2", "With a knife.")]


def test_neither_is_needed():
    assert choose_judges(EvaluateConfig()) == []
    with pytest.raises(UsageError, match="PHI3-U071 judge_scorers: no scorer named 'wit'"):
        choose_judges(EvaluateConfig(judge_model="openai:/x", judge_scorers="wit"))
