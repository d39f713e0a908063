import json

import pytest

from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import DataError, GateError
from mlflow_phi3.evaluation.golden import (
    GoldenQuery,
    check_answers,
    judge,
    judge_all,
    load_golden,
)

ASK = [{"role": "user", "content": "What colour?"}]


def query(**demands):
    return GoldenQuery({"messages": ASK}, "golden.jsonl:1", **demands)


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("demands", "answer", "faults"),
    [
        ({"contains": ("Blue",)}, "It is blue.", ()),
        ({"contains": ("blue", "light")}, "red", ("lacks 'blue'", "lacks 'light'")),
        ({"excludes": ("red",)}, "RED!", ("contains 'red'",)),
        ({"matches": "^it"}, "It is", ()),
        ({"matches": "^is"}, "It is", ("does not match '^is'",)),
        ({"expected": "The blue."}, "blue", ()),
        ({"expected": "blue"}, "red", ("is not 'blue'",)),
        ({"expected": "the blue light", "min_rouge_l": 0.5}, "a blue light", ()),
        ({"expected": "the blue light", "min_rouge_l": 1.0}, "the blue light", ()),
        ({"expected": "the blue", "min_rouge_l": 0.5}, "no", ("ROUGE-L 0.00 is below 0.5",)),
        ({}, "anything", ()),
        ({}, " ", ("has no text",)),
        ({"excludes": ("red",)}, None, ("has no text",)),
    ],
)
def test_each_demand(demands, answer, faults):
    found = judge(query(**demands), answer)
    assert found.faults == faults
    assert found.passed == (not faults)


def test_a_file_is_read_with_its_lines(tmp_path):
    path = write(
        tmp_path / "g.jsonl",
        {"messages": ASK, "contains": ["a"]},
        "",
        {"messages": ASK, "matches": "b"},
    )
    first, second = load_golden(path)
    assert (first.place, second.place) == (f"{path}:1", f"{path}:3")
    assert first.messages == (Message("user", "What colour?"),)
    assert [result.passed for result in judge_all([first, second], ["a", "a"])] == [True, False]


def test_what_only_looks_like_a_line_end_ends_none(tmp_path):
    asked = [{"role": "user", "content": "first\u2028second\u0085third"}]
    row = json.dumps({"messages": asked}, ensure_ascii=False)
    (tmp_path / "g.jsonl").write_text(row + "\n", encoding="utf-8")
    (query,) = load_golden(tmp_path / "g.jsonl")
    assert query.inputs == {"messages": asked}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "g.jsonl:1: invalid JSON: EOF while parsing"),
        ("[" * 100_000, "g.jsonl:1: invalid JSON: recursion limit"),
        ("[]", "g.jsonl:1: input should be an object"),
        ({"contains": ["a"]}, "give messages, or text"),
        ({"messages": ASK, "text": "a"}, "give messages, or text"),
        ({"messages": [], "contains": ["a"]}, "must end with the user's"),
        ({"messages": [{"role": "assistant", "content": "x"}], "contains": ["a"]}, "must end"),
        ({"messages": [{"role": "human", "content": "x"}]}, "messages.0.role: input should be"),
        ('{"text": "half a pair: \\ud800"}', "g.jsonl:1: invalid JSON: "),
        ({"text": "a", "expected": "a", "min_rouge_l": 40}, "min_rouge_l: input should be less"),
        ({"messages": ASK, "contain": ["a"]}, "contain: extra inputs"),
        ({"messages": ASK, "matches": "("}, "g.jsonl:1: matches: missing )"),
        ({"messages": ASK, "contains": ["a"], "min_rouge_l": 0.3}, "needs expected"),
    ],
)
def test_a_wrong_line_is_told_with_its_place(tmp_path, row, told):
    with pytest.raises(DataError, match="PHI3-D073") as error:
        load_golden(write(tmp_path / "g.jsonl", row))
    assert told in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="PHI3-D072"):
        load_golden(tmp_path / "none.jsonl")


def test_a_file_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "g.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"PHI3-D072 .*g\.jsonl: .* not UTF-8: .* byte 0xe9"):
        load_golden(tmp_path / "g.jsonl")


def test_a_file_without_a_query_is_told(tmp_path):
    with pytest.raises(DataError, match="PHI3-D077"):
        load_golden(write(tmp_path / "g.jsonl", ""))


def test_what_is_asked_is_the_row_without_its_demands(tmp_path):
    rows = (
        {"messages": ASK, "max_tokens": 7, "contains": ["a"]},
        {"text": "loud fan", "expected": "repair"},
    )
    chat, text = load_golden(write(tmp_path / "g.jsonl", *rows))
    assert chat.inputs == {"messages": ASK, "max_tokens": 7}
    assert text.inputs == {"text": "loud fan"}
    assert text.messages == (Message("user", "loud fan"),)


def completion(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_a_deployed_model_is_held_to_the_same_demands():
    queries = [GoldenQuery({"messages": ASK}), query(expected="The blue.")]
    check_answers(queries, lambda _: completion("blue"), where="chat/blue")
    with pytest.raises(GateError, match=r"PHI3-G701 chat/blue: .* 2 of 2 \(golden.jsonl:1\)"):
        check_answers(queries, lambda _: completion("red"), where="chat/blue")


@pytest.mark.parametrize("answer", [completion(""), completion(None), {}, {"predictions": []}])
def test_a_deployed_model_that_says_nothing_fails(answer):
    with pytest.raises(GateError, match="PHI3-G701"):
        check_answers([GoldenQuery({"messages": ASK})], lambda _: answer, where="x")


@pytest.mark.parametrize(
    "answer",
    [
        {"label": "repair", "score": 0.9},
        [{"label": "repair", "score": 0.9}],
        {"predictions": [{"label": "repair", "score": 0.9}]},
    ],
)
def test_a_label_is_an_answer(answer):
    query = GoldenQuery({"text": "loud fan"}, expected="repair")
    check_answers([query], lambda _: answer, where="x")
