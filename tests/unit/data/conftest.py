import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

SHARED = Path(__file__).resolve().parents[4] / "shared"


def shared(name):
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"shared/data/{name} is not here")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(shared("phi3-mini-tokenizer"))


@pytest.fixture(scope="session")
def samsum():
    return shared("samsum-chat")


@pytest.fixture
def write(tmp_path):
    def write(rows, name="train.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def chat():
    def chat(question, answer, system=None):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
        return {"messages": messages}

    return chat
