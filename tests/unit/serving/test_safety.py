import time

import pytest

from mlflow_phi3.azure.safety import ContentSafety
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.serving.chat import Chat
from tests.content_safety import HARMFUL, KEY, content_safety


def asking(content):
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 5}


@pytest.fixture
def service():
    with content_safety() as running:
        yield running


@pytest.fixture
def chat(checkpoint, service):
    safety = ContentSafety(service.url, KEY)
    return Chat(checkpoint, name="phi", default_max_tokens=5, safety=safety)


def test_question_and_answer_are_both_asked_about(chat, service, checkpoint):
    answer = chat.answer([asking("hello")])
    told = answer["choices"][0]["message"]["content"]
    assert service.asked == ["hello", told]
    plain = Chat(checkpoint, name="phi", default_max_tokens=5).answer([asking("hello")])
    assert plain["choices"] == answer["choices"]


def test_a_harmful_answer_is_held_back(chat, service):
    told = chat.answer([asking("hello")])["choices"][0]["message"]["content"]
    service.harmful = told
    choice = chat.answer([asking("hello")])["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "content_filter")


def test_a_harmful_question_is_not_answered(chat, service):
    with pytest.raises(UsageError, match="content_filter"):
        chat.answer([asking(HARMFUL)])
    assert service.asked == [HARMFUL]


def test_nothing_passes_without_a_verdict(chat, service, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    service.refusals = [500] * 10
    with pytest.raises(AzureError, match="PHI3-A709"):
        chat.answer([asking("hello")])
