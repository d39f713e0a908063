"""A random Phi-3 of some thousand weights, and examples from which it learns in a few steps."""

import numpy as np
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base

SPACE = {"learning_rate": "3e-3..3e-2", "batch_size_multiplier": "1", "epochs": "1,2"}


def make_base() -> Base:
    """The base; its tokenizer is never asked."""
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = Phi3ForCausalLM(config).eval().requires_grad_(requires_grad=False)
    return Base(model=model, tokenizer=None, name="tiny", revision="0", path="tiny")


def count(rows: int, seed: int) -> list[Example]:
    """Examples in which each token follows from the one before."""
    generator = np.random.default_rng(seed)
    examples = []
    for row in range(rows):
        length = int(generator.integers(8, 20))
        start = int(generator.integers(3, 60))
        ids = (np.arange(length) + start) % 61 + 3
        supervised = np.arange(length) >= 3
        examples.append(Example(ids.astype(np.int32), supervised, f"rows:{row + 1}"))
    return examples
