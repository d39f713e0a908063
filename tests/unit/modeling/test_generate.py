import copy

import pytest
import torch

from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.generate import generate, generate_from_ids, render_prompt, stop_ids
from tests.tiny_phi3 import with_longrope

PROMPTS = [
    [Message("user", text)]
    for text in ("hold the button", "blue?", "the light turns blue until the button turns", "x")
]


def one_by_one(base, prompt, length):
    """Greedy without cache, padding or generate(): the definition."""
    ids, ends = render_prompt(base.tokenizer, prompt), set(stop_ids(base.model, base.tokenizer))
    start = len(ids)
    for _ in range(length):
        token = int(base.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return base.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_equals_the_definition_in_any_batch_and_order(base):
    expected = [one_by_one(base, prompt, 12) for prompt in PROMPTS]
    assert len(set(expected)) > 1
    for batch_size in (1, 2, 16):
        found = generate(
            base.model, base.tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size
        )
        assert found == expected


def test_an_answer_within_the_original_context_hangs_on_no_longer_neighbour(base):
    model = with_longrope(base.model, 40)
    prompts = [*PROMPTS, [Message("user", "the light turns blue " * 12)]]
    lengths = [len(render_prompt(base.tokenizer, prompt)) for prompt in prompts]
    assert max(lengths[:-1]) + 6 < 40 < lengths[-1]
    alone = [generate(model, base.tokenizer, [one], max_new_tokens=6)[0] for one in prompts]
    assert generate(model, base.tokenizer, prompts, max_new_tokens=6) == alone


@pytest.mark.parametrize("original", [40, 256])
def test_no_answer_hangs_on_a_neighbour_that_comes_to_a_limit(base, original):
    """The original context of longrope, or the context itself, of 256 tokens."""
    model = with_longrope(base.model, original)
    texts = ("x", "y", "it", "the light turns", "blue " * 6, "blue " * 220, "light " * 225)
    prompts = [[Message("user", text)] for text in texts]
    lengths = [len(render_prompt(base.tokenizer, prompt)) for prompt in prompts]
    assert len(set(lengths)) < len(lengths)
    assert max(lengths) < 256 < max(lengths) + 40
    alone = [generate(model, base.tokenizer, [one], max_new_tokens=40)[0] for one in prompts]
    assert generate(model, base.tokenizer, prompts, max_new_tokens=40) == alone


def test_stops_at_the_end_of_the_turn(base):
    end = base.tokenizer.convert_tokens_to_ids("<|end|>")
    assert end in stop_ids(base.model, base.tokenizer)
    ids = torch.tensor([render_prompt(base.tokenizer, PROMPTS[0])])
    hidden = base.model.model(ids).last_hidden_state[0, -1]
    knows_only_the_end = copy.deepcopy(base.model)
    knows_only_the_end.lm_head.weight.zero_()
    knows_only_the_end.lm_head.weight[end] = hidden
    answers = generate(knows_only_the_end, base.tokenizer, PROMPTS[:1], max_new_tokens=50)
    assert answers == [""]


def test_answer_is_capped_to_the_context(base):
    long = [[Message("user", "x" * 200)]]
    assert len(render_prompt(base.tokenizer, long[0])) < 256
    assert len(generate(base.model, base.tokenizer, long, max_new_tokens=10_000)) == 1


def test_a_prompt_past_the_context_is_told_with_numbers(base):
    with pytest.raises(UsageError, match=r"PHI3-U031 .*\d{3} tokens and the model's context 256"):
        generate(base.model, base.tokenizer, [[Message("user", "x" * 300)]], max_new_tokens=4)


def test_progress_ends_complete(base):
    seen = []
    generate_from_ids(
        base.model,
        base.tokenizer,
        [render_prompt(base.tokenizer, prompt) for prompt in PROMPTS],
        max_new_tokens=2,
        batch_size=3,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(3, 4), (4, 4)]


def test_nothing_asked_nothing_answered(base):
    assert generate(base.model, base.tokenizer, [], max_new_tokens=4) == []
