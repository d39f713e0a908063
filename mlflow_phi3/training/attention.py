"""Causal attention within sequences of different length that may share their beginning.

A sequence's tokens attend to the shared prefix and to their own past. The two parts are computed
apart and merged through the log of their sums of exponentials, which is exact, gradients included
(the merge of FlashAttention's blocks, arXiv:2205.14135): the prefix is never copied, and each
token's product with it is one row of one large product.
"""

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

    @property
    def crosses(self) -> bool:
        """Whether anything attends to the prefix from beyond it: equal sequences have no more."""
        return self.prefix > 0 and any(end > start for start, end in self.spans)


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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
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


def _turn(x: Tensor, arrangement: Arrangement, *, back: bool = False) -> None:
    """:func:`rotate` in place and in float32: passes over memory are what it costs on a CPU."""
    cos, sin = arrangement.cos.float(), arrangement.sin.float() * (-1 if back else 1)
    first, second = x[..., : cos.shape[-1]], x[..., cos.shape[-1] : 2 * cos.shape[-1]]
    crossed = first * sin
    first.mul_(cos).sub_(second * sin)
    second.mul_(cos).add_(crossed)


def _split(qkv: Tensor, heads: Heads, arrangement: Arrangement) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries, keys, and values in float32 ``[K, query heads, tokens, size]``.

    float32, as the bfloat16 backward kernel of a CPU is the slower one.
    """
    x = qkv.to(torch.float32, copy=True).unflatten(-1, (-1, heads.size))
    _turn(x[:, :, : heads.query + heads.key], arrangement)
    q, k, v = x.split((heads.query, heads.key, heads.key), dim=2)
    groups = heads.query // heads.key
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _mask(length: int, heads: Heads, like: Tensor) -> Tensor | None:
    """What a window forbids within ``length`` tokens; None where it forbids nothing."""
    if heads.window is None or length <= heads.window:
        return None
    allowed = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - heads.window)
    return torch.zeros(length, length).masked_fill_(~allowed, -torch.inf).to(like)[None, None]


class _CpuAttention(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
        q, k, v = _split(qkv, heads, arrangement)
        out = torch.empty(*qkv.shape[:2], heads.query, heads.size, dtype=torch.float32)
        out = out.transpose(1, 2)
        sums = torch.empty(q.shape[:3])
        for start, end in arrangement.own:
            part = slice(start, end)
            mask = _mask(end - start, heads, q)
            out[:, :, part], sums[:, :, part] = _flash(
                q[:, :, part], k[:, :, part], v[:, :, part], 0.0, mask is None, attn_mask=mask
            )
        prefix = arrangement.prefix
        if arrangement.crosses:
            rest = slice(prefix, None)
            there, log_there = _flash(q[:, :, rest], k[:, :, :prefix], v[:, :, :prefix], 0.0, False)
            log_both = torch.logaddexp(sums[:, :, rest], log_there)
            here = (sums[:, :, rest] - log_both).exp_().unsqueeze(-1)
            out[:, :, rest].mul_(here).addcmul_(there, (log_there - log_both).exp_().unsqueeze(-1))
            sums[:, :, rest] = log_both
        kept = out.transpose(1, 2).flatten(2).to(qkv.dtype)
        ctx.save_for_backward(qkv, kept, sums)
        ctx.how = heads, arrangement
        return kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        qkv, kept, sums = ctx.saved_tensors
        heads, arrangement = ctx.how
        q, k, v = _split(qkv, heads, arrangement)
        split = (heads.query, heads.size)
        out = kept.float().unflatten(-1, split).transpose(1, 2)
        wide = gradient.float().unflatten(-1, split).transpose(1, 2)
        together = torch.empty(*qkv.shape[:2], 3 * heads.query, heads.size)
        to_q, to_k, to_v = together.transpose(1, 2).split(heads.query, dim=1)
        for start, end in arrangement.own:
            part = slice(start, end)
            mask = _mask(end - start, heads, q)
            tensors = [t[:, :, part] for t in (wide, q, k, v, out, sums)]
            tensors[-1] = tensors[-1].contiguous()
            back = _flash_backward(*tensors, 0.0, mask is None, attn_mask=mask)
            to_q[:, :, part], to_k[:, :, part], to_v[:, :, part] = back
        prefix = arrangement.prefix
        if arrangement.crosses:
            rest = slice(prefix, None)
            there = (k[:, :, :prefix], v[:, :, :prefix], out[:, :, rest])
            log = sums[:, :, rest].contiguous()
            back = _flash_backward(wide[:, :, rest], q[:, :, rest], *there, log, 0.0, False)
            to_q[:, :, rest] += back[0]
            to_k[:, :, :prefix] += back[1]
            to_v[:, :, :prefix] += back[2]
        return _join(together, heads, arrangement).to(qkv.dtype), None, None


def _join(together: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """Gradients of all query heads' q, k, v -> of the fused projection: :func:`_split` back."""
    groups = heads.query // heads.key
    if groups > 1:
        q, k, v = together.split(heads.query, dim=2)
        k, v = (t.unflatten(2, (heads.key, groups)).sum(3) for t in (k, v))
        together = torch.cat((q, k, v), dim=2)
    _turn(together[:, :, : heads.query + heads.key], arrangement, back=True)
    return together.flatten(2)
