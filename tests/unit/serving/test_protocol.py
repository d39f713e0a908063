import math

import pytest

from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import UsageError
from mlflow_phi3.serving.protocol import (
    Answer,
    TokenLogprob,
    allowed_tokens,
    completion,
    parse_request,
)

HELLO = [{"role": "user", "content": "Hello"}]
PICTURE = {"role": "user", "content": [{"type": "image_url"}]}


def text_part(text):
    return {"type": "text", "text": text}


def test_defaults_are_greedy():
    request = parse_request({"messages": HELLO, "model": None, "stop": None})
    assert (request.temperature, request.n, request.stop, request.wanted_tokens) == (0, 1, (), None)


def test_what_openai_clients_send_is_understood():
    request = parse_request(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
                },
            ],
            "max_tokens": 5,
            "max_completion_tokens": 7,
            "stop": "END",
            "stream_options": {"include_usage": True},
            "user": "someone",
        }
    )
    assert request.to_messages() == (Message("system", "Be brief."), Message("user", "Hello"))
    assert request.wanted_tokens == 7
    assert request.stop == ("END",)


def test_what_is_null_counts_as_absent_within_a_message_too():
    request = parse_request(
        {
            "messages": [*HELLO, {"role": "assistant", "content": "x", "tool_calls": None}],
            "stream_options": {"include_usage": True, "include_obfuscation": None},
        }
    )
    assert request.to_messages()[1] == Message("assistant", "x")
    assert request.stream_options.include_usage


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"messages": []}, "messages: .*at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [PICTURE]}, r"messages.0.content.0.type: got 'image_url', and only text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
        ),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content: got int, not a text"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: field required"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n: "),
        ({"n": 17}, "n: "),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a", ""]}, "stop: (?!value error).*empty"),
        ({"stop": list("abcde")}, "stop"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{}]}, "tools: extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(change, told):
    with pytest.raises(UsageError, match=rf"PHI3-U041 {told}"):
        parse_request({"messages": HELLO} | change)


@pytest.mark.parametrize(("asked", "meant"), [(1e-320, 0), (5e-38, 0), (9e-6, 0), (1e-5, 1e-5)])
def test_a_temperature_that_cannot_be_told_from_greedy_is_greedy(asked, meant):
    assert parse_request({"messages": HELLO, "temperature": asked}).temperature == meant


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(UsageError, match="PHI3-U040"):
        parse_request(body)


def test_an_answer_never_passes_the_context():
    ask = parse_request({"messages": HELLO, "max_tokens": 50})
    assert allowed_tokens(ask, prompt=10, context=100, default=7) == 50
    assert allowed_tokens(ask, prompt=80, context=100, default=7) == 20
    silent = parse_request({"messages": HELLO})
    assert allowed_tokens(silent, prompt=80, context=100, default=7) == 7
    with pytest.raises(UsageError, match=r"PHI3-U042 .*100 tokens .* context is 100"):
        allowed_tokens(silent, prompt=100, context=100, default=7)


def test_a_completion_counts_the_prompt_once():
    request = parse_request({"messages": HELLO, "n": 2, "logprobs": True})
    sure = TokenLogprob(b"a", -0.5, ((b"a", -0.5), (b"\xf0", -math.inf)))
    found = completion(
        request,
        [Answer("a", 3, "stop", (sure,)), Answer("b", 4, "length")],
        prompt_tokens=9,
        model="m",
    )
    assert found["usage"] == {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
    assert [choice["finish_reason"] for choice in found["choices"]] == ["stop", "length"]
    (first,) = found["choices"][0]["logprobs"]["content"]
    assert first["bytes"] == [97]
    assert first["top_logprobs"][1] == {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xF0]}
