"""Each hand-written backward against autograd, in float64 or by plain operations."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm, apply_rotary_pos_emb

from mlflow_phi3.training.engine import attention, attention_cuda
from mlflow_phi3.training.engine import head as head_module
from mlflow_phi3.training.engine.attention import Arrangement, Heads, apply_rope, attend
from mlflow_phi3.training.engine.head import frozen_head_loss, measure
from mlflow_phi3.training.engine.linear import Adapters, Dropout, RmsNorm, linear, pointwise, swiglu
from mlflow_phi3.training.engine.loss import cross_entropy


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(value, inputs, upstream):
    return torch.autograd.grad(value, inputs, upstream)


def both_close(got, expected, tolerance=2e-6):
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, atol=tolerance * float(other.abs().max()), rtol=1e-5)


def test_rms_norm_is_transformers_and_its_gradient():
    plain = Phi3RMSNorm(16, eps=1e-5)
    plain.weight.data = random(16, seed=1)
    mine = RmsNorm(plain.weight.detach(), 1e-5)
    x = random(2, 5, 16, seed=2).requires_grad_()
    up = random(2, 5, 16, seed=3)
    assert torch.allclose(pointwise(x, mine), plain(x), atol=1e-6)
    both_close(gradients(pointwise(x, mine), [x], up), gradients(plain(x), [x], up))


def test_swiglu_is_transformers_and_its_gradient():
    x, up = random(2, 5, 16, seed=2).requires_grad_(), random(2, 5, 8, seed=3)
    gate, other = x.chunk(2, -1)
    expected = other * functional.silu(gate)
    assert torch.allclose(pointwise(x, swiglu), expected)
    both_close(gradients(pointwise(x, swiglu), [x], up), gradients(expected, [x], up))


@pytest.mark.parametrize("dropout", [None, Dropout((0.3, 0.0), ((1, 2), (3, 4)), ((2, 3),))])
@pytest.mark.parametrize("before", [None, swiglu, RmsNorm(random(8, seed=9), 1e-5)])
def test_linear(dropout, before):
    width = 16 if before is swiglu else 8
    source, residual = (
        random(2, 5, width).requires_grad_(),
        random(2, 5, 6, seed=1).requires_grad_(),
    )
    a, b = random(2, 3, 8, seed=2).requires_grad_(), random(2, 6, 3, seed=3).requires_grad_()
    weight, scale = random(6, 8, seed=4), torch.tensor([0.5, 2.0]).view(2, 1, 1)
    keywords = {"before": before} if before else {}
    mine = linear(source, weight, Adapters(a, b, scale, dropout), residual=residual, **keywords)
    x = pointwise(source, before) if before else source
    mask = torch.ones_like(x) if dropout is None else dropout(x)
    plain = x @ weight.t() + scale * ((x * mask) @ a.mT @ b.mT) + residual
    assert torch.allclose(mine, plain, atol=1e-5)
    inputs, up = [source, residual, a, b], random(2, 5, 6, seed=5)
    both_close(gradients(mine, inputs, up), gradients(plain, inputs, up), 1e-5)


def test_dropout_masks_belong_to_their_row_and_their_sequence():
    like = torch.empty(2, 50, 40)
    together = Dropout((0.5, 0.2), ((7, 1), (8, 9)), ((20, 30), (3, 4)))(like)
    alone = Dropout((0.2,), ((9,),), ((30,),))(like[1:, 20:])
    assert torch.equal(together[1, 20:], alone[0])
    few = Dropout((0.5, 0.2), ((7, 1), (8, 9)), ((20, 30), (3, 4)))(like[:, :7])
    assert torch.equal(few[:, 3:], Dropout((0.5, 0.2), ((1,), (9,)), ((4,),))(like[:, :4]))
    assert set(together[0].unique().tolist()) == {0.0, 2.0}
    assert float((together[1] == 0).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_rotate_is_transformers_and_turns_back():
    x, angles = random(1, 7, 3, 8), random(7, 3, seed=1)
    cos, sin = angles.cos(), angles.sin()
    whole = torch.cat((cos, cos), -1)[None], torch.cat((sin, sin), -1)[None]
    expected, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), *whole)
    mine = apply_rope(x, cos[:, None], sin[:, None])
    assert torch.allclose(mine.transpose(1, 2), expected, atol=1e-6)
    assert torch.allclose(apply_rope(mine, cos[:, None], -sin[:, None]), x, atol=1e-6)


def naive_attention(qkv, heads, arrangement):
    """One softmax over all tokens with the mask written out."""
    rows, tokens = qkv.shape[:2]
    x = qkv.view(rows, tokens, -1, heads.size)
    turned = apply_rope(x[:, :, : heads.query + heads.key], arrangement.cos, arrangement.sin)
    q, k = turned[:, :, : heads.query], turned[:, :, heads.query :]
    v = x[:, :, heads.query + heads.key :]
    groups = heads.query // heads.key
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    allowed = torch.zeros(tokens, tokens, dtype=torch.bool)
    for start, end in ((0, arrangement.prefix), *arrangement.spans):
        allowed[start:end, start:end] = True
        allowed[start:end, : arrangement.prefix] = True
    allowed = allowed.tril()
    if heads.window:
        allowed = allowed.triu(1 - heads.window)
    scores = torch.einsum("ktha,ksha->khts", q, k) / heads.size**0.5
    shares = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return torch.einsum("khts,ksha->ktha", shares, v).flatten(2)


def naive_varlen(q, k, v, ends_q, ends_k, *_, window_size, enable_gqa=False):
    """What flash's variable-length kernel computes: its masks are aligned to the end."""
    out = []
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    for at in range(len(ends_q) - 1):
        mine, seen = (slice(ends[at], ends[at + 1]) for ends in (ends_q, ends_k))
        scores = torch.einsum("tha,sha->hts", q[mine], k[seen]) / q.shape[-1] ** 0.5
        before = scores.shape[2] - scores.shape[1]
        allowed = torch.ones_like(scores[0], dtype=torch.bool).tril(before)
        if window_size[0] >= 0:
            allowed = allowed.triu(before - window_size[0])
        shares = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        out.append(torch.einsum("hts,sha->tha", shares, v[seen]))
    return torch.cat(out)


@pytest.mark.parametrize("kernel", ["cpu", "cpu in blocks", "one call", "a call a sequence"])
@pytest.mark.parametrize(("prefix", "window"), [(0, None), (3, None), (0, 4)])
@pytest.mark.parametrize("key", [4, 2, 1])
def test_attention(monkeypatch, kernel, prefix, window, key):
    spans = ((prefix, prefix + 5), (prefix + 5, prefix + 5), (prefix + 5, prefix + 12))
    heads, tokens = Heads(4, key, 8, window), prefix + 12
    angles = random(tokens, 1, 3, seed=1)
    arrangement = Arrangement(prefix, spans, angles.cos(), angles.sin())
    qkv = random(2, tokens, (4 + 2 * key) * 8).requires_grad_()
    if kernel == "cpu in blocks":
        for name, size in (("QUERIES", 3), ("WEIGHTS", 40), ("STEP", 2)):
            monkeypatch.setattr(attention, name, size)
    if kernel == "one call":
        # The kernel itself runs on GPUs alone (tests/gpu); here, what is handed to it.
        monkeypatch.setattr(attention_cuda, "varlen_attn", naive_varlen)
        monkeypatch.setattr(attention_cuda, "_by_sequence", attention_cuda._at_once)
    mine = (attend if "cpu" in kernel else attention_cuda.attend_cuda)(qkv, heads, arrangement)
    plain = naive_attention(qkv, heads, arrangement)
    assert torch.allclose(mine, plain, atol=1e-5)
    up = random(*mine.shape, seed=2)
    both_close(gradients(mine, [qkv], up), gradients(plain, [qkv], up), 1e-5)


@pytest.mark.parametrize("at_once", [50, 200, 10**6])
@pytest.mark.parametrize("given", [None, "function"])
def test_the_head_in_pieces_is_the_head_whole(monkeypatch, at_once, given):
    monkeypatch.setitem(head_module.LOGITS_AT_ONCE, "cpu", at_once)
    hidden, head = random(2, 9, 8).requires_grad_(), random(31, 8, seed=1) * 9
    targets = torch.arange(9) * 3
    scales = torch.tensor([0.5, 0.1])
    loss = None
    if given:

        def loss(logits, wanted):
            return cross_entropy(logits, wanted, class_weights=None)

    total, each = frozen_head_loss(hidden, head, targets, scales, loss)
    logits = hidden @ head.t()
    plain = functional.cross_entropy(
        logits.flatten(0, 1), targets.repeat(2), reduction="none"
    ).view(2, 9)
    assert torch.allclose(each, plain.sum(1), rtol=1e-5)
    expected = (plain.sum(1) * scales).sum()
    both_close(torch.autograd.grad(total, hidden), torch.autograd.grad(expected, hidden))
    nll, hit = measure(hidden[0].detach(), head, targets)
    assert torch.allclose(nll, plain[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(hit.bool(), logits[0].argmax(-1) == targets)


def test_zero_rows_of_a_smaller_rank_get_no_gradient():
    a, b = random(1, 3, 8), random(1, 6, 3, seed=1)
    a[:, 2], b[:, :, 2] = 0, 0
    a, b = nn.Parameter(a), nn.Parameter(b)
    out = linear(random(1, 5, 8, seed=2), random(6, 8, seed=3), Adapters(a, b, torch.ones(1, 1, 1)))
    to_a, to_b = torch.autograd.grad(out.square().sum(), [a, b])
    assert not to_a[:, 2].any()
    assert not to_b[:, :, 2].any()
