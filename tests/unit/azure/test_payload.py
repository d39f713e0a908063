import json

import numpy as np
import pandas as pd
import pytest

from mlflow_phi3.azure.payload import alike, from_answer, joined, to_chat, to_plain, to_request
from mlflow_phi3.errors import UsageError

CHAT = {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
    "temperature": 0,
}
FRAMED = {
    "input_data": {
        "columns": ["messages", "temperature"],
        "index": [0],
        "data": [[CHAT["messages"], 0]],
    }
}


def test_a_chat_is_one_row():
    assert to_request(CHAT) == FRAMED


def test_a_chat_that_pandas_has_taken_apart_is_put_together(tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(CHAT))
    frame = pd.read_json(path)
    assert len(frame) == 2
    assert to_request(frame) == FRAMED


def test_messages_alone_are_a_chat():
    assert to_request(CHAT["messages"])["input_data"]["data"] == [[CHAT["messages"]]]


def test_several_chats_are_several_rows_and_missing_values_are_null():
    request = to_request([CHAT, {"messages": CHAT["messages"][1:]}])["input_data"]
    assert request["index"] == [0, 1]
    assert request["data"][1] == [CHAT["messages"][1:], None]


def test_frames_become_plain_json():
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1, 2], "x": [0.5, float("nan")]})
    request = to_request(frame)
    assert json.loads(json.dumps(request, allow_nan=False))["input_data"]["data"] == [
        ["a", 1, 0.5],
        ["b", 2, None],
    ]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": np.float32("nan"), "b": pd.NA, "c": pd.NaT, "d": None, "e": np.int64(1)}, {"e": 1}),
        ([np.float32("nan"), pd.NA, np.bool_(True)], [None, None, True]),
        (np.array([{"x": np.array([1.0, np.nan])}], dtype=object), [{"x": [1.0, None]}]),
        (({"x": {"y": float("nan"), 2: "z"}},), [{"x": {"2": "z"}}]),
    ],
)
def test_what_pandas_and_numpy_make_becomes_jsons_own(value, plain):
    found = to_plain(value)
    assert found == plain
    assert json.loads(json.dumps(found, allow_nan=False)) == plain


def test_a_ready_body_passes():
    assert to_request(FRAMED) == FRAMED


@pytest.mark.parametrize("inputs", [None, 3, "text", [], b"x"])
def test_other_things_are_refused(inputs):
    with pytest.raises(UsageError, match="PHI3-U718"):
        to_request(inputs)


def test_answers():
    completion = {"id": "1", "choices": [{"message": {"content": "x"}}]}
    assert from_answer({"predictions": [completion]}) == completion
    assert from_answer({"predictions": completion}) == completion
    assert from_answer(completion) == completion
    assert from_answer({"predictions": [1, 2]}) == {"predictions": [1, 2]}
    assert from_answer([0.5]) == {"predictions": [0.5]}


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (FRAMED, FRAMED),
        ({"dataframe_split": FRAMED["input_data"]}, FRAMED),
        ({"dataframe_records": [CHAT]}, FRAMED),
        ({"input_data": ["a", "b"]}, {"input_data": ["a", "b"]}),
        ({"input_data": [1.5, None]}, {"input_data": [1.5, None]}),
        ({"input_data": [CHAT["messages"]]}, {"input_data": [CHAT["messages"]]}),
    ],
)
def test_a_whole_body_passes_also_through_mlflows_command_line(body, request_, tmp_path):
    path = tmp_path / "body.json"
    path.write_text(json.dumps(body))

    assert to_request(body) == request_
    assert to_request(pd.read_json(path)) == request_


def test_rows_that_leave_out_different_things_are_asked_apart_and_answered_in_order():
    short = {**CHAT, "max_tokens": 3}
    parts = alike(to_request([CHAT, short, CHAT]))

    assert [positions for positions, _ in parts] == [[0, 2], [1]]
    assert parts[0][1]["input_data"]["columns"] == ["messages", "temperature"]
    assert parts[1][1]["input_data"]["data"] == [[CHAT["messages"], 0, 3]]
    answers = joined([([0, 2], ["a", "c"]), ([1], {"predictions": ["b"]})])
    assert answers == {"predictions": ["a", "b", "c"]}


def test_rows_that_are_alike_are_one_request():
    assert alike(to_request([CHAT, CHAT])) == [([0, 1], to_request([CHAT, CHAT]))]
    assert alike({"input_data": [1, 2]}) == [([0], {"input_data": [1, 2]})]


def test_one_chat_for_a_serverless_endpoint():
    chat = {"messages": [{"role": "user", "content": "q"}], "temperature": 0}
    assert to_chat(chat) == chat
    assert to_chat(chat["messages"]) == {"messages": chat["messages"]}
    for wrong in ([chat, chat], [{"text": "a"}], {"input_data": [1]}):
        with pytest.raises(UsageError, match="PHI3-U748"):
            to_chat(wrong)
