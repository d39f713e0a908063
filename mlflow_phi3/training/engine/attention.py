"""Causal attention within sequences of different length that may share their beginning.

A sequence's tokens attend to the shared prefix, whose keys and values are computed once and laid
before its own, and to their own past. As in FlashAttention (arXiv:2205.14135) the weights exist a
block of queries at a time, in the processor's cache, and are computed again on the way back.
"""

from collections.abc import Iterator
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
        from mlflow_phi3.training.engine.attention_cuda import attend_cuda

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
                torch.bmm(weights, v[keys], out=mixed[queries])
            _put(out[:, part], mixed.unflatten(0, (heads.query, -1)))
        ctx.save_for_backward(qkv)
        ctx.how = heads, arrangement
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        heads, arrangement = ctx.how
        cos, sin = _angles(heads, arrangement)
        gradient = gradient.unflatten(-1, (-1, heads.size))
        to_qkv = qkv.new_empty(*qkv.shape[:2], heads.query + 2 * heads.key, heads.size)
        to_shared = torch.zeros(2 * heads.key, len(qkv), arrangement.prefix, heads.size)
        for part, q, k, v in _stretches(qkv, heads, arrangement):
            to_x = _back(q, k, v, _take(gradient[:, part]).flatten(0, 1), heads)
            before = to_x.shape[2] - q.shape[1]
            if before:
                to_shared += to_x[heads.query :, :, :before]
            else:  # the prefix comes last
                to_x[heads.query :, :, : arrangement.prefix].add_(to_shared)
            to_x = to_x[:, :, before:]
            _turn_(to_x[: heads.query + heads.key], cos[part], -sin[part])
            _put(to_qkv[:, part], to_x)
        return to_qkv.flatten(2), None, None


def _stretches(
    qkv: Tensor, heads: Heads, arrangement: Arrangement
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Where each stretch lies, its queries, and the keys and values that they may see.

    Queries are float32 ``[query heads * K, n, size]``; of keys and values there are more where a
    prefix is shared, whose own stretch comes last.
    """
    cos, sin = _angles(heads, arrangement)
    qkv = qkv.unflatten(-1, (-1, heads.size))
    groups, before, shared = heads.query // heads.key, 0, None
    last: list[tuple[slice, Tensor, Tensor, Tensor]] = []
    for span in arrangement.own:
        part = slice(*span)
        x = _take(qkv[:, part], before)
        _turn_(x[: heads.query + heads.key, :, before:], cos[part], sin[part])
        if shared is not None:
            x[heads.query :, :, :before] = shared
        q, k, v = x.split((heads.query, heads.key, heads.key))
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        q = q[:, :, before:].flatten(0, 1).contiguous()  # or each product would copy it
        stretch = part, q, k.flatten(0, 1), v.flatten(0, 1)
        if arrangement.prefix and shared is None:
            before, shared = arrangement.prefix, x[heads.query :, :, : arrangement.prefix]
            last.append(stretch)
        else:
            yield stretch
    yield from last


def _angles(heads: Heads, arrangement: Arrangement) -> tuple[Tensor, Tensor]:
    """Cosine and sine, float32 ``[tokens, rotated / 2]``, that scale as well."""
    scale = heads.size**-0.25  # of queries and of keys, as the scores are many more
    return arrangement.cos[:, 0].float() * scale, arrangement.sin[:, 0].float() * scale


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Where some of ``q [heads, n, size]`` are, and the ``k [heads, more, size]`` that they see."""
    rows, count = q.shape[:2]
    before = k.shape[1] - count
    for start in reversed(range(0, count, QUERIES)):
        end = min(count, start + QUERIES)
        step = max(1, WEIGHTS // ((end - start) * (before + end)))
        for row in range(0, rows, step):
            some = slice(row, row + step)
            yield (some, slice(start, end)), (some, slice(before + end))


def _weigh(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    """Weights of the keys for queries that stand at their end, ``[heads, queries, keys]``."""
    scores = torch.bmm(q, k.mT)
    queries, keys = scores.shape[1:]
    scores[:, :, -queries:].add_(_forbid(queries, queries, queries))
    if window is not None and keys > window:
        scores.add_(_forbid(queries, keys, window))
    return torch.softmax(scores, -1)


@lru_cache(maxsize=64)
def _forbid(queries: int, keys: int, window: int) -> Tensor:
    """What hides from queries at the keys' end the keys after them, and those beyond a window."""
    far = torch.full((queries, keys), -torch.inf).triu_(1 + keys - queries)
    return far + torch.full((queries, keys), -torch.inf).tril_(keys - queries - window)


def _back(q: Tensor, k: Tensor, v: Tensor, up: Tensor, heads: Heads) -> Tensor:
    """Gradient of what they lie in, ``[heads, K, more, size]``, from that of what they give.

    It has nothing where there are keys and values before the first query.
    """
    to_x: Tensor = k.new_empty(3, *k.shape)
    to_q, to_k, to_v = to_x[0, :, k.shape[1] - q.shape[1] :], to_x[1], to_x[2]
    for queries, keys in _blocks(q, k):
        weights = _weigh(q[queries], k[keys], heads.window)
        to_weights = torch.bmm(up[queries], v[keys].mT)
        to_scores = _softmax_backward(to_weights, weights, -1, torch.float32)
        more = float(queries[1].stop < q.shape[1])  # the last queries come first, and set all
        to_v[keys].baddbmm_(weights.mT, up[queries], beta=more)
        to_k[keys].baddbmm_(to_scores.mT, q[queries], beta=more)
        torch.bmm(to_scores, k[keys], out=to_q[queries])
    to_x = to_x.unflatten(1, (heads.query, -1))
    if heads.query == heads.key:
        return to_x.flatten(0, 1)
    return torch.cat((to_x[0], *to_x[1:].unflatten(1, (heads.key, -1)).sum(2)))


def _take(source: Tensor, before: int = 0) -> Tensor:
    """``[K, n, heads, size]`` -> float32 ``[heads, K, before + n, size]``.

    There are zeros after it up to a whole step, and anything before it.
    """
    end = before + source.shape[1]
    whole = before + -(-source.shape[1] // STEP) * STEP
    out = torch.empty(source.shape[2], len(source), whole, source.shape[3])
    out[:, :, before:end] = source.permute(2, 0, 1, 3)
    out[:, :, end:] = 0.0
    return out


def _put(place: Tensor, x: Tensor) -> None:
    """:func:`_take` back."""
    place.copy_(x[:, :, : place.shape[1]].permute(1, 2, 0, 3))


def _turn_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """:func:`apply_rope` in place, for the ``len(cos)`` first tokens of ``[heads, K, more, size]``.

    Passes over memory are what it costs on a CPU. What is not turned is scaled like the rest.
    """
    half, size = cos.shape[-1], x.shape[-1]
    first, second, rest = x[:, :, : len(cos)].split((half, half, size - 2 * half), dim=-1)
    crossed = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(crossed)
    if rest.shape[-1]:
        rest.mul_(size**-0.25)
