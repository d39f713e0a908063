import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.shared import find_shared


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(find_shared("data/phi3-mini-tokenizer"))


class PlainTokenizer:
    """The part of a transformers tokenizer that preparation asks for, without transformers."""

    def __init__(self, folder):
        self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.chat_template = settings["chat_template"]
        self.special_tokens_map = {"eos_token": "<|endoftext|>", "bos_token": "<s>"}


@pytest.fixture(scope="session")
def plain_tokenizer():
    return PlainTokenizer(find_shared("data/phi3-mini-tokenizer"))


@pytest.fixture(scope="session")
def samsum():
    return find_shared("data/samsum-chat")


@pytest.fixture
def write(tmp_path):
    def write(rows, name="train.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def chat():
    def chat(question, answer, system=None):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    return chat
