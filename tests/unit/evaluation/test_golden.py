import json

import pytest

from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.golden import GoldenQuery, judge, judge_all, read_golden

ASK = [{"role": "user", "content": "What colour?"}]


def query(**demands):
    return GoldenQuery("golden.jsonl:1", (Message("user", "What colour?"),), **demands)


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
        ({"expected": "the blue", "min_rouge_l": 0.5}, "no", ("ROUGE-L 0.00 is below 0.5",)),
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
    first, second = read_golden(path)
    assert (first.place, second.place) == (f"{path}:1", f"{path}:3")
    assert first.messages == (Message("user", "What colour?"),)
    assert [result.passed for result in judge_all([first, second], ["a", "a"])] == [True, False]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "g.jsonl:1: Expecting"),
        ({"messages": ASK}, "nothing is demanded"),
        ({"messages": [], "contains": ["a"]}, "must end with the user's"),
        ({"messages": [{"role": "assistant", "content": "x"}], "contains": ["a"]}, "must end"),
        ({"messages": ASK, "contain": ["a"]}, "contain: Extra inputs"),
        ({"messages": ASK, "matches": "("}, "g.jsonl:1: "),
        ({"messages": ASK, "contains": ["a"], "min_rouge_l": 0.3}, "needs expected"),
    ],
)
def test_a_wrong_line_is_told_with_its_place(tmp_path, row, told):
    with pytest.raises(DataError, match="PHI3-D073") as error:
        list(read_golden(write(tmp_path / "g.jsonl", row)))
    assert told in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="PHI3-D072"):
        list(read_golden(tmp_path / "none.jsonl"))
