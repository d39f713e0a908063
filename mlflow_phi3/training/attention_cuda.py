"""The same attention on a GPU: one variable-length flash call a layer, autograd behind it."""

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from mlflow_phi3.training.attention import Arrangement, Heads, rotate


def attend_cuda(qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """See :func:`mlflow_phi3.training.attention.attend`.

    Flash attention knows half precision only; float32 goes through one SDPA call a sequence.
    """
    x = qkv.view(*qkv.shape[:2], -1, heads.size)
    turned = rotate(x[:, :, : heads.query + heads.key], arrangement.cos, arrangement.sin)
    q, k = turned[:, :, : heads.query], turned[:, :, heads.query :]
    v = x[:, :, heads.query + heads.key :]
    one_call = qkv.dtype in {torch.bfloat16, torch.float16}
    out = (_at_once if one_call else _by_sequence)(q, k, v, heads, arrangement)
    return out.flatten(2)


def _at_once(q: Tensor, k: Tensor, v: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """All sequences of all rows in one call; ``[K, tokens, heads, size]`` in and out.

    The K rows become K times as many sequences. Keys and values of the shared prefix are gathered
    in front of each sequence's own (a copy of two narrow tensors). Flash aligns its causal mask to
    the end, so that each own token sees the whole prefix.
    """
    rows, tokens = q.shape[:2]
    prefix = torch.arange(arrangement.prefix)
    seen = [torch.cat((prefix, torch.arange(*span))) for span in arrangement.own]
    queries = [end - start for start, end in arrangement.own] * rows
    if arrangement.prefix:
        seen[0] = prefix
    keys = [len(one) for one in seen] * rows
    gather = (torch.arange(rows)[:, None] * tokens + torch.cat(seen)).flatten().to(q.device)
    out = varlen_attn(
        q.flatten(0, 1).contiguous(),
        k.flatten(0, 1)[gather],
        v.flatten(0, 1)[gather],
        _cumulative(queries, q.device),
        _cumulative(keys, q.device),
        max(queries),
        max(keys),
        window_size=((heads.window or 0) - 1, 0),
        enable_gqa=heads.query != heads.key,
    )
    assert isinstance(out, Tensor)  # noqa: S101 - a tuple only when more is asked for
    return out.view_as(q)


def _by_sequence(q: Tensor, k: Tensor, v: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """One call a sequence, the mask written out."""
    prefix, pieces = arrangement.prefix, []
    for start, end in arrangement.own:
        before = prefix if start >= prefix else 0
        keys, values = (torch.cat((t[:, :before], t[:, start:end]), dim=1) for t in (k, v))
        mask = torch.ones(end - start, before + end - start, dtype=torch.bool, device=q.device)
        mask = mask.tril(before)
        if heads.window is not None:
            mask = mask.triu(before + 1 - heads.window)
        out = functional.scaled_dot_product_attention(
            q[:, start:end].transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask,
            enable_gqa=heads.query != heads.key,
        )
        pieces.append(out.transpose(1, 2))
    return torch.cat(pieces, dim=1)


def _cumulative(lengths: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
