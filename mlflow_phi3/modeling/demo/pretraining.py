"""Pretrain the demo model from random weights on one CPU thread."""

import itertools
import math
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from mlflow_phi3.modeling.demo.tokenizer import END, END_OF_TEXT

__all__ = ["MAX_LENGTH", "VOCABULARY_SIZE", "Recipe", "pretrain"]

VOCABULARY_SIZE = 2560
MAX_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the demo model is pretrained.

    Attributes:
        steps: Optimizer steps.
        rows: Rows in a batch.
        row_length: Tokens in a row.
        learning_rate: Peak of the cosine schedule.
        warmup_steps: Steps of the linear rise.
        weight_decay: AdamW's, on matrices alone.
        seed: Seed of the weights and of the text.
    """

    steps: int = 2000
    rows: int = 12
    row_length: int = 192
    learning_rate: float = 3e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    seed: int = 20


def pretrain(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Phi3ForCausalLM:
    """Pretrain a small Phi-3.

    Args:
        documents: Text without end.
        tokenizer: The demo tokenizer.
        recipe: Sizes and rates.

    Returns:
        The model in float32, on the CPU.
    """
    torch.manual_seed(recipe.seed)
    model = Phi3ForCausalLM(_make_config(tokenizer)).train()
    optimizer = _make_optimizer(model, recipe)
    batches = _read_batches(documents, tokenizer, recipe)
    started, smooth = time.monotonic(), 0.0
    for step, batch in enumerate(itertools.islice(batches, recipe.steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, recipe)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0 or step == recipe.steps:
            elapsed_s = time.monotonic() - started
            left_s = elapsed_s / step * (recipe.steps - step)
            speed = step * batch.numel() / elapsed_s
            sys.stdout.write(
                f"step {step}/{recipe.steps}  loss {smooth:.3f}  {speed:,.0f} tokens/s  "
                f"{left_s:.0f} s left\n"
            )
            sys.stdout.flush()
    return model.eval()


def _make_config(tokenizer: PreTrainedTokenizerFast) -> Phi3Config:
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    return Phi3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=MAX_LENGTH,
        original_max_position_embeddings=MAX_LENGTH,
        # A quarter of the 8 MB would go into a second vocabulary matrix otherwise.
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )


def _make_optimizer(model: Phi3ForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    gains = [weight for weight in model.parameters() if weight.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": gains, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def _learning_rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _read_batches(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Iterator[torch.Tensor]:
    rows = _pack_rows(documents, tokenizer, recipe.row_length)
    while True:
        yield torch.tensor(list(itertools.islice(rows, recipe.rows)))


def _pack_rows(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int
) -> Iterator[list[int]]:
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    row: list[int] = []
    for document in documents:
        row.extend([*tokenizer(document)["input_ids"], end_of_text])
        if len(row) >= length:
            # Each row starts with a document, as every conversation starts at the first position.
            yield row[:length]
            row = []
