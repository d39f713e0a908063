"""Lines of the data collector and of an application's log."""

import datetime as dt
import json
import time

import pytest

from mlflow_phi3.errors import DataError
from mlflow_phi3.monitoring.calls import read_calls, to_log

AT = dt.datetime(2026, 2, 3, 4, 5, tzinfo=dt.UTC)
CHAT = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]}
ANSWER = {
    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}


def event(kind, data, together="1", at="2026-02-03T04:05:00Z"):
    facts = {"specversion": "1.0", "id": kind, "type": kind, "time": at, "data": data}
    return json.dumps(facts | {"correlationid": together})


def read(*lines):
    return read_calls((f"file:{n}", line) for n, line in enumerate(lines, start=1))


@pytest.mark.parametrize("kind", ["response", "outputs"])
def test_request_and_answer_meet_in_any_order(kind):
    framed = {"input_data": {"columns": ["messages"], "data": [[CHAT["messages"]]]}}
    (call,) = read(
        event(f"azureml.inference.{kind}", {"predictions": [ANSWER]}),
        event("azureml.inference.request", framed),
    )
    assert (call.at, call.prompts) == (AT, ("hello",))
    assert (call.prompt_tokens, call.completion_tokens) == (7, 2)
    assert (call.status, call.latency_ms, call.refused) == (None, None, False)


@pytest.mark.parametrize(
    "data",
    [
        CHAT,
        [CHAT],
        json.dumps(CHAT),
        {"messages": [*CHAT["messages"], {"role": "assistant", "content": "hi"}]},
        {"dataframe_split": {"columns": ["messages"], "data": [[CHAT["messages"]]]}},
        [{"messages": json.dumps(CHAT["messages"])}],  # a pandas frame, written as text
        {"input_data": [{"text": "hello"}]},
        {"dataframe_records": [CHAT]},
        {"inputs": [{"text": "hello"}]},
        {"inputs": CHAT},
        {"inputs": {"text": ["hello"]}},
        {"inputs": ["hello"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    ],
)
def test_every_shape_of_a_request(data):
    (call,) = read(event("azureml.inference.inputs", data))
    assert call.prompts == ("hello",)


def test_each_turn_of_a_chat_is_a_prompt_once():
    """A chat is sent with all of its history, again with every turn."""
    said = [{"role": "user", "content": f"question {n}"} for n in range(3)]
    heard = {"role": "assistant", "content": "answer"}
    turns = [[turn for one in said[: n + 1] for turn in (one, heard)][:-1] for n in range(3)]
    lines = [to_log({"messages": one}, ANSWER, at=AT, status=200, latency_ms=1) for one in turns]
    told = [prompt for call in read(*lines) for prompt in call.prompts]
    assert told == ["question 0", "question 1", "question 2"]


def test_a_log_of_our_own_keeps_status_and_latency():
    line = to_log(CHAT, ANSWER, at=AT, status=200, latency_ms=12.3456)
    refused = {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
    ours = {"error_code": "BAD_REQUEST", "message": "PHI3-U751 messages: content_filter: Hate"}
    blocked = {"error": {"code": "content_filter", "message": "no"}}
    calls = read(
        line,
        to_log(CHAT, refused, at=AT, status=200, latency_ms=1),
        to_log(CHAT, blocked, at=AT, status=400, latency_ms=1),
        to_log(CHAT, ours, at=AT, status=400, latency_ms=1),
        to_log(CHAT, None, at=AT, status=500, latency_ms=1),
    )
    assert (calls[0].at, calls[0].status, calls[0].latency_ms) == (AT, 200, 12.346)
    assert [call.refused for call in calls] == [False, True, True, True, False]


def test_every_chat_of_a_batch_counts():
    """Our own ``predict`` sends a list of chats as one request."""
    held = {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
    held["usage"] = {"prompt_tokens": 3, "completion_tokens": 1}
    for answers in ([ANSWER, ANSWER, held], {"predictions": [ANSWER, ANSWER, held]}):
        (call,) = read(to_log([CHAT] * 3, answers, at=AT, status=200, latency_ms=1))
        assert call.prompts == ("hello",) * 3
        assert (call.prompt_tokens, call.completion_tokens) == (17, 5)
        assert call.refused
    untold = [{"choices": []}, {"choices": [], "usage": {"prompt_tokens": None}}]
    (call,) = read(to_log([CHAT] * 2, untold, at=AT, status=200, latency_ms=1))
    assert (call.prompt_tokens, call.completion_tokens, call.refused) == (None, None, False)


@pytest.mark.parametrize(
    "data",
    [
        {"messages": 5},
        {"messages": [5, None, {"role": "user", "content": [7]}]},
        {"input_data": {"columns": None, "data": [[1]]}},
        {"input_data": {"columns": ["text"], "data": 5}},
        {"input_data": {"columns": [["text"]], "data": [1, ["hello"]]}},
        {"input_data": "hello"},
        "[" * 100_000,
    ],
)
def test_a_request_that_was_none_is_a_call_all_the_same(data):
    """Such as an endpoint answers with 400, and an application writes down with the rest."""
    (call,) = read(to_log(data, {"error": {}}, at=AT, status=400, latency_ms=1))
    assert (call.status, "".join(call.prompts), call.refused) == (400, "", False)


@pytest.fixture
def elsewhere(monkeypatch):
    """A machine whose clock shows India's time."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("at", [1770091500, 1770091500000, "2026-02-03T04:05:00", "1770091500"])
def test_times_as_other_logs_have_them(at):
    (call,) = read(json.dumps({"at": at, "request": CHAT, "response": ANSWER}))
    assert (call.at, call.status) == (AT, 200)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", "yesterday"),
        ("at", None),
        ("status", "error"),
        ("latency_ms", "12 ms"),
        ("latency_ms", float("nan")),
    ],
)
def test_a_field_that_cannot_be_read_is_named(field, value):
    line = {"at": AT.isoformat(), "request": CHAT, "response": ANSWER, field: value}
    with pytest.raises(DataError, match=f"PHI3-D095 file:1: {field} is {value!r}"):
        read(json.dumps(line))


@pytest.mark.parametrize(("line", "code"), [("{", "D092"), ('{"a": 1}', "D091"), ("[]", "D091")])
def test_other_lines_are_named(line, code):
    with pytest.raises(DataError, match=f"PHI3-{code} file:2"):
        read(event("azureml.inference.request", CHAT), line)
