"""What `sweep.py` sweeps over: a tiny random Phi-3, and chats to train and validate on.

`tailed` is made of numbers: one system prompt, turns of log-normal lengths (about 120 tokens a
chat, up to 1,024) as people's chats have them, and answers that follow from the question, so that
the loss depends on the hyperparameters. `demo` is the conversations that come with the package:
short, and nearly of one length.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from mlflow_phi3.data.messages import Example
from mlflow_phi3.data.sample import load_conversations
from mlflow_phi3.modeling.base import load_tokenizer
from mlflow_phi3.training.engine.adapters import find_linear, initial_weights, plan_layout
from mlflow_phi3.training.peft_files import save_adapter
from mlflow_phi3.training.spec import LoraSpec

SHAPE = {
    "hidden_size": 320,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "intermediate_size": 864,
}
LORA = LoraSpec(r=16, alpha=32.0)
DATA = ("tailed", "demo")
_WORDS = 512  # different tokens in `tailed`
_PROMPT, _MARKS = 28, 4
_LONGEST = 1024


def make_base(folder: Path) -> None:
    """A random Phi-3 of about 12 M weights with the demo's tokenizer, and the first adapter."""
    tokenizer = load_tokenizer("demo")
    torch.manual_seed(0)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Phi3Config(**SHAPE, vocab_size=len(tokenizer), bos_token_id=None, **special)
    model = Phi3ForCausalLM(config).eval().requires_grad_(requires_grad=False)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    linear = find_linear(model)
    layout = plan_layout(linear, LORA)
    (folder / "adapter").mkdir()
    first = initial_weights(linear, layout, seed=0)
    save_adapter(folder / "adapter", layout, first, str(folder / "base"))


def load_examples(data: str, tokenizer: Any, rows: int) -> tuple[list[Example], list[Example]]:
    """``rows`` to train on, and others to validate on: three eighths of ``rows``, at least 16."""
    count = max(16, rows * 3 // 8)
    if data == "demo":
        conversations = load_conversations()[: rows + count]
        examples = [_tokenize(messages, tokenizer) for messages in conversations]
    else:
        examples = make_tailed(rows + count)
    return examples[:rows], examples[rows:]


def make_tailed(count: int) -> list[Example]:
    """Chats of long-tailed lengths; the first question word sets the pattern of the answer."""
    random = np.random.default_rng(0)
    prompt = random.integers(10, 2000, _PROMPT)
    words = 10 + random.permutation(2000)[:_WORDS]
    often = 1.0 / np.arange(1, _WORDS + 1)
    often /= often.sum()
    examples = []
    for _ in range(count):
        asked = max(4, int(random.lognormal(math.log(20), 0.95)))
        told = max(4, int(random.lognormal(math.log(29), 1.15)))
        asked = min(asked, _LONGEST // 2)
        told = min(told, _LONGEST - _PROMPT - _MARKS - asked)
        question = random.choice(_WORDS, asked, p=often)
        steps = np.arange(told)
        answer = np.where(
            random.random(told) < 0.7, (7 * steps + question[0]) % 64, question[steps % asked]
        )
        ids = np.concatenate((prompt, [3], words[question], [4], words[answer], [2, 5]))
        supervised = np.zeros(len(ids), dtype=np.bool_)
        supervised[-told - 2 : -1] = True
        examples.append(Example(ids.astype(np.int32), supervised))
    return examples


def _tokenize(messages: list[dict[str, str]], tokenizer: Any) -> Example:
    asked = tokenizer.apply_chat_template(
        messages[:-1], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    told = tokenizer(messages[-1]["content"] + "<|end|>\n", add_special_tokens=False)["input_ids"]
    supervised = np.arange(len(asked) + len(told)) >= len(asked)
    return Example(np.array(asked + told, np.int32), supervised)
