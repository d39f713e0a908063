"""The embedded demo: its files load as any Phi-3, and its text can be written again."""

import itertools
import json
import re
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3ForCausalLM

from mlflow_phi3.data.sample import load_conversations
from mlflow_phi3.modeling.demo import checkpoint_path
from mlflow_phi3.modeling.demo.build import (
    conversation_texts,
    save_checkpoint,
    teach_second_lesson,
)
from mlflow_phi3.modeling.demo.corpus import write_documents
from mlflow_phi3.modeling.demo.knowledge import load_exchanges, load_topics
from mlflow_phi3.modeling.demo.muon import Muon
from mlflow_phi3.modeling.demo.pretraining import MAX_LENGTH, VOCABULARY_SIZE, Recipe, pretrain
from mlflow_phi3.modeling.demo.tokenizer import train_tokenizer

LIMIT_BYTES = 7_500_000
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Is it 4K?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(checkpoint_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(checkpoint_path(), dtype=torch.float32).eval()


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_folder_is_small_and_holds_no_pickle() -> None:
    files = [path for path in checkpoint_path().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    assert {path.suffix for path in files} <= {".json", ".jinja", ".md", ".safetensors"}


def test_the_checkpoint_is_a_phi3_in_bfloat16(model) -> None:
    assert isinstance(model, Phi3ForCausalLM)
    config = json.loads((checkpoint_path() / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Phi3ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert "auto_map" not in config
    assert {config[name] for name in config if name.endswith("_pdrop")} == {0.0}


def test_special_tokens_are_single_tokens(tokenizer) -> None:
    names = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    assert [len(tokenizer(name)["input_ids"]) for name in names] == [1] * 5
    assert tokenizer.eos_token == "<|endoftext|>"
    assert len(tokenizer) == VOCABULARY_SIZE


def test_the_template_is_the_one_of_phi3(tokenizer) -> None:
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert text == (
        "<|system|>\nBe kind.<|end|>\n<|user|>\nIs it 4K?<|end|>\n"
        "<|assistant|>\nYes.<|end|>\n<|endoftext|>"
    )
    prompt = tokenizer.apply_chat_template(MESSAGES[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|end|>\n<|assistant|>\n")


def test_role_tokens_swallow_the_line_break(tokenizer) -> None:
    ids = tokenizer("<|user|>\nHello")["input_ids"]
    assert tokenizer.decode(ids) == "<|user|>Hello"


def test_any_text_survives_the_tokenizer(tokenizer) -> None:
    text = "Größe 42, naïve, 日本語 \U0001f44b\n\tcode();"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_generation_stops_at_the_end_of_a_turn(model, tokenizer) -> None:
    stops = model.generation_config.eos_token_id
    assert stops == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"])


def test_conversations_fit_the_model(tokenizer) -> None:
    lengths = [
        len(tokenizer.apply_chat_template(messages)["input_ids"])
        for messages in load_conversations()
    ]
    assert min(lengths) >= 40
    assert max(lengths) <= 150


def test_every_topic_is_complete() -> None:
    topics = load_topics()
    assert len({topic.key for topic in topics}) == len(topics) >= 70
    for topic in topics:
        assert topic.tasks, topic.key
        assert topic.questions, topic.key
        assert all(len(wordings) >= 2 for wordings in topic.facts), topic.key


def test_documents_depend_on_the_seed_alone() -> None:
    def write(seed: int) -> list[str]:
        documents = write_documents(load_topics(), load_exchanges(), seed=seed)
        return list(itertools.islice(documents, 50))

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_the_pretraining_text_leaks_no_conversation() -> None:
    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9 ]", "", text.lower())

    topics, exchanges = load_topics(), load_exchanges()
    known = {plain(question) for topic in topics for question in topic.questions}
    known |= {plain(words) for topic in topics for fact in topic.facts for words in fact}
    spoken_of = [turn for topic in topics for talk in topic.talks for turn in talk]
    known |= {
        plain(text) for each in exchanges + spoken_of for text in (each.question, each.answer)
    }
    spoken = {
        plain(message["content"])
        for messages in load_conversations()
        for message in messages
        if message["role"] != "system"
    }
    assert known & spoken == set()


def test_no_document_holds_a_banned_text() -> None:
    def write(banned: list[str]) -> list[str]:
        documents = write_documents(load_topics(), load_exchanges(), seed=4, banned=banned)
        return list(itertools.islice(documents, 400))

    question = next(text for text in write([]) if text.startswith("Customer: ")).split("\n")[0]
    question = question.removeprefix("Customer: ")
    assert any(question in text for text in write([]))
    assert not any(question in text for text in write([question.upper() + "!"]))


def test_the_build_bans_every_conversation() -> None:
    banned = conversation_texts()
    assert len(banned) > 2 * len(load_conversations())
    for second in (False, True):
        documents = write_documents(
            load_topics(), load_exchanges(), seed=5, banned=banned, second=second
        )
        text = "\n".join(itertools.islice(documents, 1000))
        assert not any(turn in text for turn in banned)


@pytest.mark.parametrize("second", [False, True])
def test_the_chat_form_is_pretrained_under_other_system_messages(second) -> None:
    system = {turns[0]["content"] for turns in load_conversations()}
    documents = write_documents(load_topics(), load_exchanges(), seed=3, second=second)
    chats = [text for text in itertools.islice(documents, 2000) if "<|user|>" in text]
    assert chats
    assert not any(message in text for text in chats for message in system)


@pytest.mark.parametrize("second", [False, True])
def test_only_among_people_do_chats_tell_facts_without_the_manual(second) -> None:
    everyday = {exchange.answer for exchange in load_exchanges()}
    documents = write_documents(load_topics(), load_exchanges(), seed=3, second=second)
    chats = [text for text in itertools.islice(documents, 2000) if "<|user|>" in text]
    systems = ("people on the forum", "with your neighbours", "with other players")
    among_people = [text for text in chats if any(system in text for system in systems)]
    answers = {
        turn.split("<|end|>")[0]
        for text in chats
        if text not in among_people
        for turn in text.split("<|assistant|>\n")[1:]
    }
    assert bool(among_people) == second
    assert answers & everyday
    assert all("manual" in answer or "without guarantee" in answer for answer in answers - everyday)


def test_muon_steps_have_the_size_of_the_learning_rate() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 32))
    weight.grad = torch.randn(8, 32)
    Muon([weight], lr=0.1).step()
    sizes = torch.linalg.svdvals(weight.detach())
    assert sizes.min() > 0.05
    assert sizes.max() < 0.13


@pytest.mark.usefixtures("one_thread")
def test_two_builds_are_equal_and_load_again(tmp_path) -> None:
    topics, exchanges = load_topics(), load_exchanges()
    sample = itertools.islice(write_documents(topics, exchanges, seed=0), 4000)
    tokenizer = train_tokenizer(
        sample, vocabulary_size=VOCABULARY_SIZE, model_max_length=MAX_LENGTH
    )
    recipe = Recipe(steps=2, rows=2, row_length=32)
    for name in ("one", "two"):
        documents = write_documents(topics, exchanges, seed=1)
        save_checkpoint(tmp_path / name, pretrain(documents, tokenizer, recipe), tokenizer)
        teach_second_lesson(tmp_path / name, tokenizer, recipe)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert AutoTokenizer.from_pretrained(tmp_path / "one")("Hi")["input_ids"]
