"""The same attention on a GPU: one variable-length flash call a layer, autograd behind it."""

from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from mlflow_phi3.training.attention import Arrangement, Heads, rotate


def attend_cuda(qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """See :func:`mlflow_phi3.training.attention.attend`.

    The K rows become K times as many sequences. Keys and values of the shared prefix are gathered
    in front of each sequence's own (a copy of two narrow tensors); flash's causal mask is aligned
    to the end, so that each own token sees the whole prefix. bfloat16 or float16 only.
    """
    rows, tokens = qkv.shape[:2]
    x = qkv.unflatten(-1, (-1, heads.size))
    turned = rotate(x[..., : heads.query + heads.key, :], arrangement.cos, arrangement.sin)
    q, k = turned.split((heads.query, heads.key), dim=2)
    v = x[..., heads.query + heads.key :, :]
    queries, keys, gather = _sequences(arrangement, rows, tokens, qkv.device)
    flat_k, flat_v = k.flatten(0, 1), v.flatten(0, 1)
    out = varlen_attn(
        q.flatten(0, 1).contiguous(),
        flat_k[gather],
        flat_v[gather],
        _cumulative(queries, qkv.device),
        _cumulative(keys, qkv.device),
        max(queries),
        max(keys),
        window_size=((heads.window or 0) - 1, 0),
        enable_gqa=heads.query != heads.key,
    )
    assert isinstance(out, Tensor)  # noqa: S101 - a tuple only when more is asked for
    return out.view(rows, tokens, -1)


def _sequences(
    arrangement: Arrangement, rows: int, tokens: int, device: torch.device
) -> tuple[list[int], list[int], Tensor]:
    """Query and key lengths of every sequence of every row, and the tokens whose keys it sees."""
    prefix = torch.arange(arrangement.prefix)
    pieces = [prefix] if arrangement.prefix else []
    queries = [arrangement.prefix] if arrangement.prefix else []
    for start, end in arrangement.spans:
        if end > start:
            pieces.append(torch.cat((prefix, torch.arange(start, end))))
            queries.append(end - start)
    one = torch.cat(pieces)
    gather = (torch.arange(rows)[:, None] * tokens + one).flatten().to(device)
    return queries * rows, [len(piece) for piece in pieces] * rows, gather


def _cumulative(lengths: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
