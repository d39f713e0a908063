"""The bundled conversations: well formed, varied, without repetitions."""

from collections import Counter

import pytest
from rapidfuzz import fuzz, process

from mlflow_phi3.data.sample import load_conversations, sample_path

Conversation = list[dict[str, str]]


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return load_conversations()


def test_the_file_lies_in_the_package() -> None:
    assert sample_path().name == "support.jsonl"
    assert sample_path().is_file()


def test_there_are_enough_conversations(conversations: list[Conversation]) -> None:
    assert len(conversations) >= 360


def test_roles_alternate_after_the_system_message(conversations: list[Conversation]) -> None:
    for messages in conversations:
        roles = [message["role"] for message in messages]
        assert roles[0] == "system"
        assert roles[1:] == ["user", "assistant"] * (len(roles) // 2)


def test_contents_are_clean_text(conversations: list[Conversation]) -> None:
    for messages in conversations:
        for message in messages:
            content = message["content"]
            assert content == content.strip()
            assert content.isascii()
            assert "<|" not in content
            assert "  " not in content


def test_some_conversations_have_a_second_turn(conversations: list[Conversation]) -> None:
    share = sum(len(messages) > 3 for messages in conversations) / len(conversations)
    assert 0.1 < share < 0.25


def test_nearly_all_share_one_system_prompt(conversations: list[Conversation]) -> None:
    prompts = Counter(messages[0]["content"] for messages in conversations)
    (_, count), *_ = prompts.most_common()
    assert len(prompts) > 1
    assert count / len(conversations) > 0.9


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_no_two_texts_are_nearly_the_same(conversations: list[Conversation], role: str) -> None:
    texts = [
        message["content"]
        for messages in conversations
        for message in messages
        if message["role"] == role
    ]
    likeness = process.cdist(texts, texts, scorer=fuzz.ratio, score_cutoff=92)
    pairs = [
        (texts[i], texts[j]) for i in range(len(texts)) for j in range(i) if likeness[i][j] > 0
    ]
    assert pairs == []
