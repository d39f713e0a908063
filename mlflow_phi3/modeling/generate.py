"""Answers to prompts: batched, greedy, deterministic."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from mlflow_phi3.data.messages import Message, to_dicts
from mlflow_phi3.errors import UsageError

# Phi-3, Phi-3.5 and Phi-4-mini end a turn with <|end|>, Phi-4 with <|im_end|>. Not every checkpoint
# names it in generation_config.json, and without it an answer runs on into the next turn.
TURN_ENDS = ("<|end|>", "<|im_end|>")

Ids = Sequence[int] | npt.NDArray[np.int32]


def generate(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
) -> list[str]:
    """Answer each prompt greedily, as :func:`generate_from_ids` does.

    Args:
        model: A causal language model, bare or with an adapter on it.
        tokenizer: Its tokenizer, with a chat template.
        prompts: The messages before each answer; the last is the user's.
        max_new_tokens: Tokens of an answer at most; capped to what is left of the context.
        batch_size: Prompts generated together.

    Raises:
        UsageError: A prompt leaves no room for an answer in the model's context.
    """
    rendered = [render_prompt(tokenizer, prompt) for prompt in prompts]
    return generate_from_ids(
        model, tokenizer, rendered, max_new_tokens=max_new_tokens, batch_size=batch_size
    )


def generate_from_ids(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Answer each prompt greedily.

    Prompts of like length share a batch, padded on the left, with a key-value cache.

    Args:
        model: A causal language model, bare or with an adapter on it.
        tokenizer: Its tokenizer.
        prompts: Token ids up to where each answer begins.
        max_new_tokens: Tokens of an answer at most; capped to what is left of the context.
        batch_size: Prompts generated together.
        on_progress: Called with (prompts done, prompts in all) after each batch.

    Returns:
        One answer per prompt, in the order given, without special tokens and outer white space.

    Raises:
        UsageError: A prompt leaves no room for an answer in the model's context.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[str] = []
    for batch in batches((prompts[at] for at in order), batch_size, model, wanted=max_new_tokens):
        answers += _generate_batch(model, tokenizer, batch, max_new_tokens)
        if on_progress:
            on_progress(len(answers), len(order))
    return [text for _, text in sorted(zip(order, answers, strict=True))]


def batches(
    prompts: Iterable[Ids], size: int, model: PreTrainedModel, *, wanted: int = 0
) -> Iterator[list[Ids]]:
    """Consecutive prompts, of which none changes what another gets.

    Longrope turns a whole batch by its longest sequence, and at the context's end all of a batch
    ends. So prompts whose answers may come to either share a batch only with others as long.

    Args:
        prompts: Token ids of each.
        size: Prompts computed together, at most.
        model: What computes them.
        wanted: Tokens of an answer, at most.
    """
    original, context = original_context(model), context_length(model)

    def fit(one: Ids, other: Ids) -> bool:
        shorter, longer = sorted((len(one), len(other)))
        limit = original if shorter <= original else context
        return shorter == longer or longer + wanted <= limit

    batch: list[Ids] = []
    for prompt in prompts:
        if batch and (len(batch) == size or not fit(batch[0], prompt)):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The token ids of ``messages`` through the chat template, up to where the answer begins."""
    text = tokenizer.apply_chat_template(
        to_dicts(messages), tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def stop_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> list[int]:
    """Ids that end an answer: those the checkpoint names, and the end of a turn; ascending."""
    settings = getattr(model, "generation_config", None)  # a classifier has none
    named = settings.eos_token_id if settings else None
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary.get(token) for token in TURN_ENDS)
    return sorted(token for token in found if token is not None)


def context_length(model: PreTrainedModel) -> int:
    """Tokens of prompt and answer together, at most."""
    return int(model.config.max_position_embeddings)


def original_context(model: PreTrainedModel) -> int:
    """Tokens of a sequence beyond which longrope turns all of its batch otherwise."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return int(rope.get("original_max_position_embeddings", context_length(model)))


def padding_id(model: PreTrainedModel, tokenizer: Tokenizer) -> int:
    """The id that fills up short rows; it is masked, so any id will do where none is named."""
    named = tokenizer.pad_token_id
    return int(named) if named is not None else stop_ids(model, tokenizer)[0]


def pad(prompts: Sequence[Ids], *, fill: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of a batch, both int64 ``[prompts, longest]``.

    Args:
        prompts: Token ids of each.
        fill: The id that fills up short rows.
        side: Where it does: ``left`` or ``right``.
    """
    # Copied: what lies in a file of prepared data cannot be written, of which torch warns.
    rows = [torch.tensor(np.asarray(prompt), dtype=torch.long) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)
    ones = [torch.ones_like(row) for row in rows]
    return ids, pad_sequence(ones, batch_first=True, padding_side=side)


@torch.inference_mode()
def _generate_batch(
    model: PreTrainedModel, tokenizer: Tokenizer, prompts: Sequence[Ids], wanted: int
) -> list[str]:
    width = max(len(prompt) for prompt in prompts)
    room = context_length(model) - width
    if room < 1:
        raise UsageError(
            "PHI3-U031",
            f"the prompt has {width} tokens and the model's context {context_length(model)}",
            where="generation",
            fix="shorten the conversation",
        )
    fill, device = padding_id(model, tokenizer), model.device
    ids, mask = pad(prompts, fill=fill, side="left")
    greedy = GenerationConfig(
        max_new_tokens=min(wanted, room),
        do_sample=False,
        eos_token_id=stop_ids(model, tokenizer),
        pad_token_id=fill,
        use_cache=True,
    )
    output = model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=greedy
    )
    texts = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
