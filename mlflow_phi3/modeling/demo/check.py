"""Does fine-tuning show? ``python -m mlflow_phi3.modeling.demo.check`` answers in about a minute.

A plain loop with PEFT trains LoRA weights on four fifths of the bundled conversations, prints the
perplexity of the held-out tenth before and after, and a few answers beside the written ones. The
tenth in between is left to choose settings by (``--split validation``).
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from mlflow_phi3.data.sample import load_conversations
from mlflow_phi3.modeling.demo import checkpoint_path

__all__ = ["Score", "main", "score", "train_lora"]

Conversation = Sequence[dict[str, str]]
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Score:
    """How well a model predicts the assistant's tokens.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of a token.
        token_accuracy: Share of tokens that were the likeliest, in [0, 1].
    """

    perplexity: float
    token_accuracy: float


def score(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
) -> Score:
    """Score a model on conversations.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        conversations: What to score on.

    Returns:
        Perplexity and accuracy over all supervised tokens.
    """
    total_loss, right, tokens = 0.0, 0, 0
    for start in range(0, len(conversations), 8):
        batch = _collate(tokenizer, conversations[start : start + 8])
        labels = batch["labels"][:, 1:]
        with torch.inference_mode():
            logits = model(**batch).logits[:, :-1].float()
        seen = labels != _IGNORED
        total_loss += torch.nn.functional.cross_entropy(
            logits[seen], labels[seen], reduction="sum"
        ).item()
        right += int((logits.argmax(-1)[seen] == labels[seen]).sum())
        tokens += int(seen.sum())
    return Score(math.exp(total_loss / tokens), right / tokens)


def train_lora(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    learning_rate: float,
    epochs: int,
) -> PeftModel:
    """Train LoRA weights on the assistant's tokens.

    Args:
        model: The base model; its weights stay as they are.
        tokenizer: Its tokenizer.
        conversations: The training set.
        learning_rate: Peak rate; it falls to zero in a straight line.
        epochs: Passes over the training set.

    Returns:
        The base model with the trained adapter.
    """
    torch.manual_seed(0)
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    tuned = get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    )
    weights = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0, fused=True)
    rng = random.Random(0)  # noqa: S311 - an order, not a secret
    steps = epochs * math.ceil(len(conversations) / 8)
    for step in range(steps):
        start = 8 * (step % (steps // epochs))
        if start == 0:
            order = rng.sample(conversations, len(conversations))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 5) * (1 - step / steps)
        loss = tuned(**_collate(tokenizer, order[start : start + 8])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return tuned.eval()


def main() -> None:
    """Parse the command line, train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=checkpoint_path())
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--answers", type=int, default=10)
    arguments = parser.parse_args()

    conversations = load_conversations()
    random.Random(0).shuffle(conversations)  # noqa: S311 - an order, not a secret
    tenth = len(conversations) // 10
    held_out = (
        conversations[:tenth] if arguments.split == "test" else conversations[tenth : 2 * tenth]
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    base = score(model, tokenizer, held_out)
    started = time.monotonic()
    tuned_model = train_lora(
        model,
        tokenizer,
        conversations[2 * tenth :],
        learning_rate=arguments.learning_rate,
        epochs=arguments.epochs,
    )
    elapsed_s = time.monotonic() - started
    tuned = score(tuned_model, tokenizer, held_out)
    sys.stdout.write(
        f"base   perplexity {base.perplexity:8.2f}  token accuracy {base.token_accuracy:.3f}\n"
        f"tuned  perplexity {tuned.perplexity:8.2f}  token accuracy {tuned.token_accuracy:.3f}\n"
        f"{1 - tuned.perplexity / base.perplexity:.0%} lower after {elapsed_s:.1f} s of training\n"
    )
    for messages in held_out[: arguments.answers]:
        sys.stdout.write(
            f"\nquestion: {messages[-2]['content']}\nwritten:  {messages[-1]['content']}\n"
            f"tuned:    {_answer(tuned_model, tokenizer, messages[:-1])}\n"
        )
        with tuned_model.disable_adapter():
            sys.stdout.write(f"base:     {_answer(tuned_model, tokenizer, messages[:-1])}\n")


def _answer(model: PeftModel, tokenizer: PreTrainedTokenizerBase, messages: Conversation) -> str:
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        output = model.generate(**prompt, max_new_tokens=90, do_sample=False)
    answer = output[0, prompt["input_ids"].shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


def _collate(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation]
) -> dict[str, torch.Tensor]:
    rows = [_mark(tokenizer, messages) for messages in conversations]
    width = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]
        ),
        "labels": torch.tensor([labels + [_IGNORED] * (width - len(labels)) for _, labels in rows]),
    }


def _mark(
    tokenizer: PreTrainedTokenizerBase, messages: Conversation
) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        piece = tokenizer(f"<|{message['role']}|>\n{message['content']}<|end|>\n")["input_ids"]
        ids.extend(piece)
        # The role token itself is given, the answer and its end are learned.
        spoken = message["role"] == "assistant"
        labels.extend([_IGNORED, *piece[1:]] if spoken else [_IGNORED] * len(piece))
    return ids, labels


if __name__ == "__main__":
    main()
