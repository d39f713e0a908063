"""Tiny random models of each supported shape, and random examples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM, Phi3ForSequenceClassification

from mlflow_phi3.data.messages import Example
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.quantization import free_from_loader, loading_options
from mlflow_phi3.training.loop import Session
from tests.unit.training.sessions import LENGTHS

VOCABULARY = 97
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.5, 2.5, 4.0],
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 24,
}
IN_BLOCKS = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 8}
ARCHITECTURES = {
    "phi3": {"num_key_value_heads": 4},
    "phi4-mini": {
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    },
    "longrope": {
        "num_key_value_heads": 2,
        "rope_parameters": LONGROPE,
        "original_max_position_embeddings": 24,
        "max_position_embeddings": 96,
    },
    "window": {"num_key_value_heads": 4, "sliding_window": 12},
}


def make_base(
    architecture: str = "phi3", *, labels: int = 0, dtype=torch.float32, in_blocks=False
) -> Base:
    torch.manual_seed(3)
    shape = COMMON | IN_BLOCKS if in_blocks else COMMON  # rows of whole blocks of four bits
    config = Phi3Config(**{**shape, **ARCHITECTURES[architecture]})
    if labels:
        config.num_labels = labels
        model = Phi3ForSequenceClassification(config)
    else:
        model = Phi3ForCausalLM(config)
    model.to(dtype).eval().requires_grad_(requires_grad=False)
    return Base(model=model, tokenizer=None, name="tiny", revision="0", path="tiny")


def keep_in_four_bits(base: Base, folder: Path) -> Base:
    """The same model as it comes back from the disk with quantization=nf4."""
    base.model.save_pretrained(folder)
    options = loading_options("nf4", base.model.dtype, "cpu")
    model = type(base.model).from_pretrained(folder, dtype=base.model.dtype, **options)
    free_from_loader(model)
    return replace(base, model=model.eval().requires_grad_(requires_grad=False))


def make_examples(
    lengths: Sequence[int], *, prefix: int = 0, seed: int = 0, labels: int = 0
) -> list[Example]:
    """Random ids; after the prefix about half of the tokens are supervised, never the last."""
    random = np.random.default_rng(seed)
    shared = np.random.default_rng(99).integers(3, VOCABULARY, prefix)
    examples = []
    for at, length in enumerate(lengths):
        ids = random.integers(3, VOCABULARY, length)
        ids[:prefix] = shared[:length]
        supervised = random.random(length) < 0.5
        supervised[: prefix + 1] = False
        supervised[length // 2] = length // 2 > prefix
        supervised[-1] = False
        label = int(random.integers(labels)) if labels else None
        examples.append(Example(ids.astype(np.int32), supervised, f"random:{at}", label))
    return examples


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def new_base() -> Callable[..., Base]:
    return make_base


@pytest.fixture
def in_four_bits(tmp_path) -> Callable[[Base], Base]:
    return lambda base: keep_in_four_bits(base, tmp_path / "base")


@pytest.fixture(scope="session")
def new_examples() -> Callable[..., list[Example]]:
    return make_examples


@pytest.fixture(params=["reference", "auto"])
def session(request, new_base, new_examples, tmp_path):
    """Make sessions on the same data, each on a base of its own."""

    def make(name="s", *, base=None, **options):
        return Session(
            base or new_base(),
            new_examples(LENGTHS, prefix=4),
            new_examples((10, 15, 12), prefix=4, seed=5),
            folder=tmp_path / name,
            engine=request.param,
            **options,
        )

    return make
