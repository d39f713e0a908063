"""Causal attention within sequences of different length that may share their beginning.

A sequence's tokens attend to the shared prefix, whose keys and values are computed once and laid
before its own, and to their own past. As in FlashAttention (arXiv:2205.14135) the weights exist a
block of queries at a time, in the processor's cache, and are computed again on the way back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_softmax_backward = torch.ops.aten._softmax_backward_data  # noqa: SLF001 - softmax's own gradient

QUERIES = 128  # of a block
WEIGHTS = 2**19  # of a block, all heads together: 2 MiB in float32
STEP = 16  # lengths are rounded up to it: a product of a new shape is first compiled


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
    """Stretch by stretch, in float32."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
        out = qkv.new_empty(*qkv.shape[:2], heads.query, heads.size)
        for part, q, k, v in _stretches(qkv, heads, arrangement):
            mixed = torch.empty_like(q)
            for queries, keys in _blocks(q, k):
                weights = _weigh(q[queries], k[keys], heads.window)
                mixed[queries] = torch.bmm(weights, v[keys])
            _put(out[:, part], mixed.unflatten(0, (heads.query, -1)))
        ctx.save_for_backward(qkv)
        ctx.how = heads, arrangement
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        heads, arrangement = ctx.how
        prefix = arrangement.prefix
        to_prefix: list[Tensor] = []
        gradient = gradient.unflatten(-1, (-1, heads.size))
        to_qkv = torch.empty_like(qkv)
        for part, q, k, v in _stretches(qkv, heads, arrangement):
            up = _take(gradient[:, part]).flatten(0, 1)
            back = _back(q, k, v, up, heads.window)
            if prefix and not to_prefix:  # complete when all that see it have been there
                to_prefix = back
                continue
            for whole, own in zip(to_prefix[1:], back[1:], strict=False):  # none without a prefix
                whole[:, :prefix] += own[:, :prefix]
            back[1:] = [own[:, prefix:] for own in back[1:]]
            _close(to_qkv, back, heads, arrangement, part)
        if to_prefix:
            _close(to_qkv, to_prefix, heads, arrangement, slice(prefix))
        return to_qkv, None, None


def _stretches(
    qkv: Tensor, heads: Heads, arrangement: Arrangement
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Where each stretch lies, its queries, and the keys and values that they may see."""
    shared: list[Tensor] = []
    for span in arrangement.own:
        part = slice(*span)
        q, *own = _open(qkv, heads, arrangement, part)
        k, v = (torch.cat(two, 1) for two in zip(shared, own, strict=True)) if shared else own
        yield part, q, k, v
        if arrangement.prefix and not shared:
            shared = [each[:, : arrangement.prefix] for each in own]


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Where some of ``q [heads, n, size]`` are, and the ``k [heads, more, size]`` that they see."""
    rows, count = q.shape[:2]
    before = k.shape[1] - count
    for start in range(0, count, QUERIES):
        end = min(count, start + QUERIES)
        step = max(1, WEIGHTS // ((end - start) * (before + end)))
        for row in range(0, rows, step):
            some = slice(row, row + step)
            yield (some, slice(start, end)), (some, slice(before + end))


def _weigh(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    """Weights of the keys for queries that stand at their end, ``[heads, queries, keys]``."""
    scores = torch.bmm(q, k.mT)
    queries, keys = scores.shape[1:]
    scores[:, :, -queries:] += _forbid(queries, queries, queries)
    if window is not None and keys > window:
        scores += _forbid(queries, keys, window)
    return torch.softmax(scores, -1)


@lru_cache(maxsize=64)
def _forbid(queries: int, keys: int, window: int) -> Tensor:
    """What hides from queries at the keys' end the keys after them, and those beyond a window."""
    far = torch.full((queries, keys), -torch.inf).triu_(1 + keys - queries)
    return far + torch.full((queries, keys), -torch.inf).tril_(keys - queries - window)


def _back(q: Tensor, k: Tensor, v: Tensor, up: Tensor, window: int | None) -> list[Tensor]:
    """Gradients of ``q``, ``k`` and ``v`` from ``up``, that of what they give."""
    to_q, to_k, to_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for queries, keys in _blocks(q, k):
        weights = _weigh(q[queries], k[keys], window)
        to_weights = torch.bmm(up[queries], v[keys].mT)
        to_scores = _softmax_backward(to_weights, weights, -1, torch.float32)
        to_v[keys].baddbmm_(weights.mT, up[queries])
        to_k[keys].baddbmm_(to_scores.mT, q[queries])
        to_q[queries] = torch.bmm(to_scores, k[keys])
    return [to_q, to_k, to_v]


def _take(x: Tensor) -> Tensor:
    """``[K, n, heads, size]`` -> float32 ``[heads, K, n, size]``, with zeros up to a whole step."""
    count = x.shape[1]
    out = torch.empty(x.shape[2], len(x), -(-count // STEP) * STEP, x.shape[3])
    out[:, :, :count] = x.permute(2, 0, 1, 3)
    out[:, :, count:] = 0.0
    return out


def _put(place: Tensor, x: Tensor) -> None:
    """:func:`_take` back."""
    place.copy_(x[:, :, : place.shape[1]].permute(1, 2, 0, 3))


def _open(qkv: Tensor, heads: Heads, arrangement: Arrangement, part: slice) -> list[Tensor]:
    """A stretch's rotated queries, keys, and values: float32 ``[query heads * K, n, size]``."""
    x = _take(qkv[:, part].unflatten(-1, (-1, heads.size)))
    cos, sin = (each[part, 0].float() for each in (arrangement.cos, arrangement.sin))
    _apply_rope_(x[: heads.query + heads.key, :, : len(cos)], cos, sin)
    q, k, v = x.split((heads.query, heads.key, heads.key))
    q *= heads.size**-0.5  # here, as the weights are many more
    groups = heads.query // heads.key
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
    return [each.flatten(0, 1) for each in (q, k, v)]


def _close(
    place: Tensor, back: Sequence[Tensor], heads: Heads, arrangement: Arrangement, part: slice
) -> None:
    """:func:`_open` back: a stretch's gradients to where they belong."""
    q, k, v = (each.unflatten(0, (heads.query, -1)) for each in back)
    q *= heads.size**-0.5
    if heads.query > heads.key:
        k, v = (each.unflatten(0, (heads.key, -1)).sum(1) for each in (k, v))
    x = torch.cat((q, k, v))
    cos, sin = (each[part, 0].float() for each in (arrangement.cos, arrangement.sin))
    _apply_rope_(x[: heads.query + heads.key, :, : len(cos)], cos, -sin)
    _put(place[:, part].unflatten(-1, (-1, heads.size)), x)


def _apply_rope_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """:func:`apply_rope` in place: passes over memory are what it costs on a CPU."""
    first, second = x[..., : cos.shape[-1]], x[..., cos.shape[-1] : 2 * cos.shape[-1]]
    crossed = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(crossed)
