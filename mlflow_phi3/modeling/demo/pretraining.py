"""Pretrain the demo model from random weights on one CPU thread."""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from mlflow_phi3.modeling.demo.muon import Muon
from mlflow_phi3.modeling.demo.tokenizer import END_OF_TEXT
from mlflow_phi3.modeling.hardware import has_bfloat16

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
        learning_rate: AdamW's peak, for the vocabulary and the gains.
        muon_learning_rate: Muon's peak, for the matrices of the layers.
        warmup_steps: Steps of the linear rise of both rates.
        decay_share: Share of the steps, at the end, in which both rates fall to zero.
        weight_decay: Muon's.
        dropout: Probability of dropout on what a layer adds, while pretraining alone.
        seed: Seed of the weights and of the text.
    """

    steps: int = 4000
    rows: int = 8
    row_length: int = 192
    learning_rate: float = 3e-3
    muon_learning_rate: float = 0.015
    warmup_steps: int = 30
    decay_share: float = 0.4
    weight_decay: float = 0.05
    dropout: float = 0.05
    seed: int = 20

    def second(self) -> "Recipe":
        """The shorter and gentler second lesson."""
        return replace(
            self,
            steps=self.steps // 4,
            learning_rate=self.learning_rate / 2,
            muon_learning_rate=self.muon_learning_rate / 2,
            decay_share=0.8,
        )


def pretrain(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    *,
    start: Phi3ForCausalLM | None = None,
) -> Phi3ForCausalLM:
    """Pretrain a small Phi-3.

    Args:
        documents: Text without end.
        tokenizer: The demo tokenizer.
        recipe: Sizes and rates.
        start: A model to train on, in float32; None begins with random weights.

    Returns:
        The model in float32, on the CPU.
    """
    torch.manual_seed(recipe.seed)
    model = (start or Phi3ForCausalLM(_make_config(tokenizer, recipe))).train()
    optimizers = _make_optimizers(model, recipe)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    batches = _read_batches(documents, tokenizer, recipe)
    low = has_bfloat16("cpu")
    started, smooth = time.monotonic(), 0.0
    for step, batch in enumerate(itertools.islice(batches, recipe.steps), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * _schedule(step, recipe)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if step == 1 else 0.9 * smooth + 0.1 * loss.item()
        if step % 25 == 0 or step == recipe.steps:
            elapsed_s = time.monotonic() - started
            left_s = elapsed_s / step * (recipe.steps - step)
            speed = step * batch.numel() / elapsed_s
            sys.stdout.write(
                f"step {step}/{recipe.steps}  loss {smooth:.3f}  {speed:,.0f} tokens/s  "
                f"{left_s:.0f} s left\n"
            )
            sys.stdout.flush()
    # What is saved is the plain architecture: dropout belongs to this training.
    model.config.resid_pdrop = 0.0
    return model.eval()


def _make_config(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Phi3Config:
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    return Phi3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=480,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        resid_pdrop=recipe.dropout,
        max_position_embeddings=MAX_LENGTH,
        original_max_position_embeddings=MAX_LENGTH,
        # A quarter of the 8 MB would go into a second vocabulary matrix otherwise.
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )


def _make_optimizers(model: Phi3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    inner = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inner_ids = {id(weight) for weight in inner}
    others = [weight for weight in model.parameters() if id(weight) not in inner_ids]
    return [
        Muon(inner, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(
            others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def _schedule(step: int, recipe: Recipe) -> float:
    rise = step / recipe.warmup_steps
    fall = (recipe.steps - step + 1) / (recipe.decay_share * recipe.steps)
    return min(rise, 1.0, fall)


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
