"""What `training.py` trains: random Phi-3 models, chat data, and the arithmetic none can avoid."""

import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

from mlflow_phi3.data.messages import Example

_CHECKOUT = Path(__file__).parents[1]
_PLACES = [folder / "shared" / "data" for folder in (_CHECKOUT, _CHECKOUT.parent)]
SHARED = next((folder for folder in _PLACES if folder.is_dir()), _PLACES[-1])
VOCABULARY = 32064
SHAPES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 768,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
    },
    "mini": {
        "hidden_size": 3072,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 8192,
    },
}
LORA = {"r": 16, "lora_alpha": 32}
LAYERS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def new_model(size: str, dtype: torch.dtype, device: str, attention: str) -> Phi3ForCausalLM:
    """A Phi-3 of random weights, the same each time."""
    torch.manual_seed(0)
    config = Phi3Config(**SHAPES[size], vocab_size=VOCABULARY, attn_implementation=attention)
    with torch.device(device):
        model = Phi3ForCausalLM(config)
    return model.to(dtype).eval()


def load_tokenizer() -> Any:
    """Phi-3-mini's tokenizer."""
    return AutoTokenizer.from_pretrained(str(SHARED / "phi3-mini-tokenizer"))


def samsum() -> list[Example]:
    """The chat set of Azure's fine-tuning sample, loss on the assistant's turn."""
    tokenizer, examples = load_tokenizer(), []
    for line in (SHARED / "samsum-chat" / "train.jsonl").read_text(encoding="utf-8").splitlines():
        user, assistant = (turn["content"] for turn in json.loads(line)["messages"])
        asked = tokenizer(f"<|user|>\n{user}<|end|>\n<|assistant|>\n")["input_ids"]
        told = tokenizer(f"{assistant}<|end|>\n", add_special_tokens=False)["input_ids"]
        supervised = [False] * len(asked) + [True] * len(told)
        examples.append(Example(np.array(asked + told, np.int32), np.array(supervised)))
    return examples


def tailed(count: int = 512) -> list[Example]:
    """Chats of log-normal lengths (mean about 120, up to 1,024) behind one system prompt."""
    lengths = random.Random(0)  # noqa: S311 - a benchmark
    ids = np.random.default_rng(0)
    prompt, examples = ids.integers(10, VOCABULARY, 28), []
    for _ in range(count):
        user = min(400, max(4, int(lengths.lognormvariate(math.log(20), 0.95))))
        assistant = min(590, max(4, int(lengths.lognormvariate(math.log(29), 1.15))))
        own = ids.integers(10, 522, user + assistant + 4)
        supervised = np.zeros(len(prompt) + len(own), dtype=np.bool_)
        supervised[-assistant - 2 : -1] = True
        examples.append(Example(np.concatenate((prompt, own)).astype(np.int32), supervised))
    return examples


def unavoidable_flops(size: str, examples: Sequence[Example]) -> float:
    """FLOPs of one LoRA pass over ``examples`` that no exact method can leave out.

    Twice the matrix weights forward and twice for the gradient of the activations per real token
    (the first qkv needs none), the adapters' six products, the head where something is supervised,
    causal attention's two products forward and four backward.
    """
    shape = SHAPES[size]
    width, inner, depth = (
        shape[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    lengths = np.array([len(example.input_ids) for example in examples], dtype=np.float64)
    targets = sum(int(example.supervised.sum()) for example in examples)
    weights = 4 * width * width + 3 * width * inner
    sides = (4 * width) + (2 * width) + (width + 2 * inner) + (inner + width)
    base = lengths.sum() * (4 * weights * depth - 2 * 3 * width * width)
    adapters = lengths.sum() * 6 * LORA["r"] * sides * depth
    head = targets * 4 * VOCABULARY * width
    attention = 6 * width * float((lengths**2).sum()) * depth
    return float(base + adapters + head + attention)


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of this machine's best large matrix product; on a CPU by processor time."""
    size = 2048 if device == "cpu" else 8192
    clock = time.process_time if device == "cpu" else time.perf_counter
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = math.inf
    for _ in range(5):
        began = clock()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, clock() - began)
    return 2 * size**3 / best
