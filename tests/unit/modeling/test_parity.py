import copy
import math

import pytest
import torch

from mlflow_phi3.modeling.parity import compare_logits
from tests.tiny_phi3 import conversation, example


@pytest.fixture
def examples(base):
    return [example(base, conversation("hold", "the light", line)) for line in (1, 2)]


def test_a_model_equals_itself(base, examples):
    parity = compare_logits(base.model, base.model, examples)
    assert (parity.max_abs, parity.differing) == (0.0, 0)
    assert parity.within(0.0)


def test_a_scaled_head_is_measured(base, examples):
    other = copy.deepcopy(base.model)
    other.lm_head.weight.mul_(1.01)
    parity = compare_logits(base.model, other, examples)
    assert parity.max_rel == pytest.approx(0.01, rel=1e-3)
    assert parity.differing == 0
    assert parity.within(0.02)
    assert not parity.within(0.005)


def test_swapped_tokens_are_seen(base, examples):
    other = copy.deepcopy(base.model)
    other.lm_head.weight.copy_(other.lm_head.weight.roll(1, 0))
    parity = compare_logits(base.model, other, examples)
    assert parity.differing == parity.positions
    assert not parity.within(0.01)


@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_never_within(base, examples, which):
    other = copy.deepcopy(base.model)
    other.lm_head.weight[3] = math.nan
    pair = [base.model, base.model]
    pair[which] = other
    parity = compare_logits(*pair, examples)
    assert math.isnan(parity.max_abs)
    assert not parity.within(math.inf)


def test_nothing_compared_is_not_equal(base):
    assert not compare_logits(base.model, base.model, []).within(1.0)


def test_memory_stays_one_example(base):
    def endless():
        for line in range(3):
            yield example(base, conversation("hold", "blue", line))

    assert compare_logits(base.model, base.model, endless()).positions > 0
    assert torch.is_grad_enabled()


def test_a_flip_at_a_tie_is_within_and_a_wide_one_is_not(base, examples):
    """Two tokens with the same row of the head are tied everywhere; a hair decides."""
    tied = copy.deepcopy(base.model)
    best = int(tied(torch.as_tensor(examples[0].input_ids)[None].long()).logits[0, -1].argmax())
    twin = 9 if best != 9 else 8
    tied.lm_head.weight[twin] = tied.lm_head.weight[best]
    nudged = copy.deepcopy(tied)
    # Of two equal logits argmax takes the first: the second one gets the hair.
    nudged.lm_head.weight[max(best, twin)] *= 1 + 1e-4
    nudged.lm_head.weight[min(best, twin)] *= 1 - 1e-4
    parity = compare_logits(tied, nudged, examples)
    assert parity.differing > 0
    assert parity.widest_flip < 1e-3
    assert parity.within(1e-3)
    assert not parity.within(1e-7)
