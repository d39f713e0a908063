import json

import pytest

from mlflow_phi3.deployment.golden import GoldenQuery, check_answers, load_golden
from mlflow_phi3.errors import GateError, UsageError


def chat(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_a_file_of_queries(tmp_path):
    path = tmp_path / "golden.jsonl"
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    path.write_text(f"{json.dumps({**asked, 'expected': 'hello'})}\n\n{json.dumps(asked)}\n")
    assert load_golden(path) == (GoldenQuery(asked, "hello"), GoldenQuery(asked))


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "PHI3-U721"), ("{", "PHI3-U722"), ('{"expected": "x"}', "PHI3-U723"), ("3", "PHI3-U723")],
)
def test_what_is_no_query_is_refused_with_its_line(tmp_path, content, code):
    path = tmp_path / "golden.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=code):
        load_golden(path)


def test_answers_are_compared_without_regard_to_white_space():
    queries = [GoldenQuery({}, "hello there")]
    check_answers(queries, lambda _inputs: chat(" hello\nthere "), where="x")
    with pytest.raises(GateError, match="PHI3-G702"):
        check_answers(queries, lambda _inputs: chat("bye"), where="x")


@pytest.mark.parametrize("answer", [chat(""), chat(None), {}, {"predictions": []}])
def test_an_empty_answer_is_no_answer(answer):
    with pytest.raises(GateError, match="PHI3-G701"):
        check_answers([GoldenQuery({})], lambda _inputs: answer, where="x")


def test_other_predictions_count():
    check_answers([GoldenQuery({})], lambda _inputs: {"predictions": [{"label": "a"}]}, where="x")
