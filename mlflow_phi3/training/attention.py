"""Causal attention within sequences of different length that may share their beginning.

A sequence's tokens attend to the shared prefix and to their own past. The two parts are computed
apart and merged through the log of their sums of exponentials, which is exact, gradients included
(the merge of FlashAttention's blocks, arXiv:2205.14135), so that the prefix is computed once and
never copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - SDPA's own kernel; only it tells the log-sum-exp
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001 - and its gradient


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of the attention.

    Args:
        query: Query heads.
        key: Key and value heads; each serves ``query / key`` query heads.
        size: Width of a head.
        window: Positions a token attends to, itself included; None is all before it.
    """

    query: int
    key: int
    size: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Which tokens attend to which, and how far they are turned.

    Args:
        prefix: Tokens at the front that begin every sequence.
        spans: (start, end) of each sequence's own tokens.
        cos: ``[tokens, 1, rotated / 2]``, scaled as longrope asks.
        sin: The same shape.
    """

    prefix: int
    spans: tuple[tuple[int, int], ...]
    cos: Tensor
    sin: Tensor

    @property
    def own(self) -> list[tuple[int, int]]:
        """Stretches that attend to themselves: the prefix, and what sequences have beyond it."""
        return [(s, e) for s, e in ((0, self.prefix), *self.spans) if e > s]


def attend(qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """Rotate queries and keys, attend.

    Args:
        qkv: ``[K, tokens, (query + 2 * key) * size]``, as the fused projection leaves it.
        heads: Shape of the attention.
        arrangement: Of the batch.

    Returns:
        ``[K, tokens, query * size]``.
    """
    if qkv.device.type == "cuda":
        from mlflow_phi3.training.attention_cuda import attend_cuda

        return attend_cuda(qkv, heads, arrangement)
    out: Tensor = _CpuAttention.apply(qkv, heads, arrangement)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return out


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first ``2 * cos.shape[-1]`` numbers of each head, half against half (RoPE).

    Args:
        x: ``[..., tokens, heads, size]``.
        cos: ``[tokens, 1, rotated / 2]``.
        sin: The same; its negative turns back.

    Source: arXiv:2104.09864, in the layout of transformers' ``apply_rotary_pos_emb``.
    """
    half = cos.shape[-1]
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((*turned, rest) if rest.shape[-1] else turned, dim=-1)


class _CpuAttention(Function):
    """Stretch by stretch, so that what one needs in float32 is still in the processor's cache.

    float32, as the bfloat16 backward kernel of a CPU takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
        kept = qkv.new_empty(*qkv.shape[:2], heads.query, heads.size)
        sums, shared = [], None
        for span in arrangement.own:
            part = slice(*span)
            q, k, v = _open(qkv, heads, arrangement, part)
            mask = _mask(span, heads, q)
            out, log = _flash(q, k, v, 0.0, mask is None, attn_mask=mask)
            if shared is not None:
                there, log_there = _flash(q, *shared, 0.0, False)
                log_both = torch.logaddexp(log, log_there)
                out.mul_((log - log_both).exp_().unsqueeze(-1))
                out.addcmul_(there, (log_there - log_both).exp_().unsqueeze(-1))
                log = log_both
            elif arrangement.prefix:  # the first stretch
                shared = k, v
            kept[:, part] = out.transpose(1, 2)
            sums.append(log)
        ctx.save_for_backward(qkv, kept, *sums)
        ctx.how = heads, arrangement
        return kept.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        qkv, kept, *sums = ctx.saved_tensors
        heads, arrangement = ctx.how
        gradient = gradient.view_as(kept)
        to_qkv = torch.empty_like(qkv)
        shared, to_shared = None, []
        for span, log in zip(arrangement.own, sums, strict=True):
            part = slice(*span)
            q, k, v = _open(qkv, heads, arrangement, part)
            wide, out = (t[:, part].float().transpose(1, 2) for t in (gradient, kept))
            mask = _mask(span, heads, q)
            back = _flash_backward(wide, q, k, v, out, log, 0.0, mask is None, attn_mask=mask)
            if shared is not None:
                to_there = _flash_backward(wide, q, *shared, out, log, 0.0, False)
                for mine, more in zip((back[0], *to_shared[1:]), to_there, strict=True):
                    mine.add_(more)
            elif arrangement.prefix:  # complete when all that see it have been there
                shared, to_shared = (k, v), back
                continue
            _close(to_qkv, back, heads, arrangement, part)
        if to_shared:
            _close(to_qkv, to_shared, heads, arrangement, slice(arrangement.prefix))
        return to_qkv, None, None


def _open(qkv: Tensor, heads: Heads, arrangement: Arrangement, part: slice) -> list[Tensor]:
    """A stretch's rotated queries, keys, and values: float32 ``[K, query heads, n, size]``."""
    x = qkv[:, part].to(torch.float32, copy=True).unflatten(-1, (-1, heads.size))
    turned = heads.query + heads.key
    _apply_rope_(x[:, :, :turned], arrangement.cos[part].float(), arrangement.sin[part].float())
    q, k, v = x.split((heads.query, heads.key, heads.key), dim=2)
    groups = heads.query // heads.key
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    return [t.transpose(1, 2) for t in (q, k, v)]


def _close(
    to_qkv: Tensor,
    gradients: Sequence[Tensor],
    heads: Heads,
    arrangement: Arrangement,
    part: slice,
) -> None:
    """:func:`_open` back: a stretch's gradients to where they belong in ``to_qkv``."""
    cos, sin = arrangement.cos[part].float(), arrangement.sin[part].float()
    counts = heads.query, heads.key, heads.key
    places = to_qkv[:, part].unflatten(-1, (-1, heads.size)).split(counts, dim=2)
    for at, (place, each) in enumerate(zip(places, gradients, strict=True)):
        to = each.transpose(1, 2)
        if place.shape != to.shape:  # one key serves several queries
            to = to.unflatten(2, (heads.key, -1)).sum(3)
        if at < 2:  # queries and keys
            _apply_rope_(to, cos, -sin)
        place.copy_(to)


def _apply_rope_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """:func:`apply_rope` in place: passes over memory are what it costs on a CPU."""
    first, second = x[..., : cos.shape[-1]], x[..., cos.shape[-1] : 2 * cos.shape[-1]]
    crossed = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(crossed)


def _mask(span: tuple[int, int], heads: Heads, like: Tensor) -> Tensor | None:
    """What a window forbids within a stretch; None where it forbids nothing."""
    length = span[1] - span[0]
    if heads.window is None or length <= heads.window:
        return None
    allowed = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - heads.window)
    return torch.zeros(length, length).masked_fill_(~allowed, -torch.inf).to(like)[None, None]
