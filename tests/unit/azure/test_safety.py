import time

import pytest

from mlflow_phi3.azure.safety import (
    ENDPOINT_VARIABLE,
    KEY_VARIABLE,
    SEVERITY_VARIABLE,
    ContentSafety,
    Finding,
    safety_from,
    variables_for,
)
from mlflow_phi3.errors import AzureError, UsageError
from tests.content_safety import HARMFUL, KEY, LONGEST, content_safety


@pytest.fixture
def service():
    with content_safety() as running:
        yield running


@pytest.fixture
def safety(service):
    return safety_from({ENDPOINT_VARIABLE: f"{service.url}/", KEY_VARIABLE: KEY})


def completion(*texts):
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for n, text in enumerate(texts)
    ]
    return {"id": "x", "choices": choices}


def test_what_is_harmless_passes(safety, service):
    safety.check_prompt(["You are helpful.", "How do I turn it on?"])
    answer = completion("Hold the button.")
    assert safety.filter(answer) == answer
    assert service.asked == ["You are helpful.\nHow do I turn it on?", "Hold the button."]


def test_a_harmful_question_is_refused_and_a_harmful_answer_is_held_back(safety):
    with pytest.raises(UsageError, match=r"PHI3-U751 .*content_filter: Violence \(severity 4\)"):
        safety.check_prompt(["hello", f"a {HARMFUL}"])
    fine, held = safety.filter(completion("fine", f"take a {HARMFUL}"))["choices"]
    assert (fine["message"]["content"], fine["finish_reason"]) == ("fine", "stop")
    assert (held["message"]["content"], held["finish_reason"]) == ("", "content_filter")


def test_a_long_text_is_asked_in_parts_and_an_empty_one_not_at_all(safety, service):
    assert safety.find(" " * 5) == safety.find("") == ()
    assert safety.find("x" * LONGEST + HARMFUL) == (Finding("Violence", 4),)
    assert [len(text) for text in service.asked] == [LONGEST, 500 + len(HARMFUL)]


def test_nothing_hides_where_a_long_text_is_cut(safety, service):
    for cut in (LONGEST - 500, LONGEST):
        for shift in range(len(HARMFUL) + 1):
            assert safety.find("x" * (cut - shift) + HARMFUL + "x" * LONGEST)
    service.asked.clear()
    safety.find("x" * LONGEST)
    assert len(service.asked) == 1


def test_the_severity_can_be_set(service):
    known = {ENDPOINT_VARIABLE: service.url, KEY_VARIABLE: KEY}
    assert safety_from({**known, SEVERITY_VARIABLE: "6"}).find(HARMFUL) == ()
    assert safety_from({**known, SEVERITY_VARIABLE: "2"}).find(HARMFUL)


@pytest.fixture
def waits(monkeypatch):
    """How long it would have waited each time."""
    told = []
    monkeypatch.setattr(time, "sleep", told.append)
    return told


@pytest.mark.usefixtures("waits")
def test_a_busy_service_is_asked_again(safety, service):
    service.refusals = [429, 503]
    assert safety.find("hello") == ()


def test_a_service_that_asks_for_a_long_wait_does_not_get_it(safety, service, waits):
    class Slow(service.RequestHandlerClass):
        def end_headers(self):
            self.send_header("Retry-After", "8")
            super().end_headers()

    service.RequestHandlerClass, service.refusals = Slow, [429] * 10
    with pytest.raises(AzureError, match="PHI3-A709"):
        safety.find("hello")
    assert waits == [2, 2, 2]


@pytest.mark.usefixtures("waits")
def test_without_a_verdict_nothing_passes(safety, service):
    service.refusals = [500] * 10
    with pytest.raises(AzureError, match="PHI3-A709"):
        safety.check_prompt(["hello"])
    with pytest.raises(AzureError, match="PHI3-A709") as raised:
        ContentSafety(service.url, "wrong").find("hello")
    assert raised.value.status == 401
    with pytest.raises(AzureError, match="PHI3-A709"):
        ContentSafety("http://127.0.0.1:9", KEY).find("hello")


def test_what_the_environment_says():
    assert safety_from({}) is None
    with pytest.raises(UsageError, match="PHI3-U752"):
        safety_from({ENDPOINT_VARIABLE: "https://x"})


@pytest.mark.parametrize("severity", ["high", "0", "3", "8", "10", ""])
def test_a_severity_that_holds_back_nothing_or_all_is_refused(severity):
    given = {KEY_VARIABLE: KEY, SEVERITY_VARIABLE: severity}
    with pytest.raises(UsageError, match="PHI3-U752"):
        safety_from({ENDPOINT_VARIABLE: "https://x", **given})


def test_a_deployment_holds_references_and_no_key():
    assert variables_for("safety") == {
        ENDPOINT_VARIABLE: "${{azureml://connections/safety/target}}",
        KEY_VARIABLE: "${{azureml://connections/safety/credentials/key}}",
    }
