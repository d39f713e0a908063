"""MLflow's scorers with a judge on loopback."""

import pytest

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.tracking.judges import JudgedAnswer, choose_scorers, judge_answers
from tests.judge import judge_server


@pytest.fixture
def judge(monkeypatch):
    with judge_server() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "unused")
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        yield server


def row(answer):
    asked = ({"role": "user", "content": "How do I turn it on?"},)
    return JudgedAnswer(asked, answer, "Hold it.")


def test_verdicts_become_shares_and_traces(judge, tracker):
    scorers = choose_scorers(
        "correctness, fluency", model="openai:/judge-1", guidelines="Never promise a refund."
    )
    run = tracker.start("evaluate", stage="evaluate")

    shares = judge_answers(run, [row("Hold the button."), row("No idea.")], scorers)

    names = ("correctness", "fluency", "guidelines")
    counts = {f"{name}_verdicts": 2 for name in names}
    assert shares == {**dict.fromkeys(names, 0.5), **counts}
    assert {model for model, _ in judge.asked} == {"judge-1"}
    assert len(judge.asked) == 6
    assert any("Never promise a refund." in asked for _, asked in judge.asked)


def test_a_judge_that_fails_is_told(judge, tracker):
    judge.status = 400
    run = tracker.start("evaluate", stage="evaluate")
    with pytest.raises(PreflightError, match=r"PHI3-P071 judge_model: .* no verdict on fluency"):
        judge_answers(run, [row("x")], choose_scorers("fluency", model="openai:/judge-1"))


def test_answers_without_a_verdict_are_not_counted(judge, tracker):
    judge.silent_on = "mumble"
    run = tracker.start("evaluate", stage="evaluate")
    scorers = choose_scorers("fluency", model="openai:/judge-1")
    rows = [row("Hold the button."), row("mumble"), row("mumble")]
    assert judge_answers(run, rows, scorers) == {"fluency": 1.0, "fluency_verdicts": 1}


@pytest.mark.parametrize(
    ("names", "model", "code"),
    [("correct", "openai:/x", "PHI3-U071"), ("fluency", "no-such-form", "PHI3-U072")],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(names, model, code):
    with pytest.raises(UsageError, match=code):
        choose_scorers(names, model=model)
