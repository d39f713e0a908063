"""Sequences that are equal to the last token: the shared prefix is then all there is."""

import numpy as np
import pytest
import torch

from mlflow_phi3.data.messages import Example
from mlflow_phi3.training.engine.attention import Arrangement, Heads, attend
from mlflow_phi3.training.scoring import score


def example(length, seed=0):
    ids = np.random.default_rng(seed).integers(5, 60, length).astype(np.int32)
    return Example(ids, np.arange(length) >= length // 2, place="rows.jsonl:1")


@pytest.mark.parametrize("lengths", [(40, 40, 40), (40, 40, 41)])
def test_equal_rows_score_as_each_by_itself(new_base, lengths):
    base = new_base("phi3")
    rows = [example(length) for length in lengths]

    together = list(score(base, None, rows, engine="fused"))

    alone = [next(score(base, None, [row], engine="fused")) for row in rows]
    assert [s.nll for s in together] == pytest.approx([s.nll for s in alone], rel=1e-5)


def test_attention_without_a_token_beyond_the_prefix_has_a_gradient():
    qkv = torch.randn(1, 8, 3 * 2 * 4, requires_grad=True)
    angle = torch.arange(8)[:, None, None] * torch.ones(1, 1, 2)
    alone = Arrangement(0, ((0, 8),), angle.cos(), angle.sin())
    shared = Arrangement(8, ((8, 8), (8, 8)), angle.cos(), angle.sin())

    gradients = [
        torch.autograd.grad(attend(qkv, Heads(2, 2, 4), how).square().sum(), qkv)[0]
        for how in (alone, shared)
    ]

    torch.testing.assert_close(*gradients)
