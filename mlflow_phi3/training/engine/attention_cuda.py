"""The same attention on a GPU: one variable-length flash call a layer, autograd behind it."""

from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from mlflow_phi3.training.engine.attention import Arrangement, Heads, apply_rope


def attend_cuda(qkv: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """See :func:`mlflow_phi3.training.engine.attention.attend`.

    Flash knows half precision on GPUs since Ampere; the rest is one SDPA call a sequence.
    """
    x = qkv.view(*qkv.shape[:2], -1, heads.size)
    turned = apply_rope(x[:, :, : heads.query + heads.key], arrangement.cos, arrangement.sin)
    q, k = turned[:, :, : heads.query], turned[:, :, heads.query :]
    v = x[:, :, heads.query + heads.key :]
    attend = _at_once if _has_flash(qkv.dtype, qkv.device) else _by_sequence
    return attend(q, k, v, heads, arrangement).flatten(2)


def _has_flash(dtype: torch.dtype, device: torch.device) -> bool:
    new = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    return new and dtype in {torch.bfloat16, torch.float16}


def _at_once(q: Tensor, k: Tensor, v: Tensor, heads: Heads, arrangement: Arrangement) -> Tensor:
    """All sequences of all rows in one call; ``[K, tokens, heads, size]`` in and out.

    The K rows become K times as many sequences. Keys and values of the shared prefix are gathered
    in front of each sequence's own (a copy of two narrow tensors). Flash aligns its causal mask to
    the end, so that each own token sees the whole prefix.
    """
    rows, tokens = q.shape[:2]
    where, seen = _where(arrangement.prefix, tuple(arrangement.own), rows, tokens, q.device)
    k, v = (t.flatten(0, 1) if seen is None else t.flatten(0, 1)[seen] for t in (k, v))
    # Only where needed: an older PyTorch does not know it, and Phi-3-mini's heads are not grouped.
    grouped: dict[str, Any] = {} if heads.query == heads.key else {"enable_gqa": True}
    out = varlen_attn(
        q.flatten(0, 1).contiguous(),
        k.contiguous(),
        v.contiguous(),
        *where,
        window_size=((heads.window or 0) - 1, 0),
        **grouped,
    )
    assert isinstance(out, Tensor)  # noqa: S101 - a tuple only when more is asked for
    return out.view_as(q)


@lru_cache(maxsize=1)  # all layers of a batch ask for it, and a GPU waits for each copy
def _where(
    prefix: int, own: tuple[tuple[int, int], ...], rows: int, tokens: int, device: torch.device
) -> tuple[tuple[Tensor, Tensor, int, int], Tensor | None]:
    """Where each sequence's queries and keys begin, int32 ``[sequences + 1]``, and their most.

    Then whose keys they are, int64; None is every token's, once.
    """
    queries = keys = [end - start for start, end in own] * rows
    seen = None
    if prefix:
        shared = torch.arange(prefix)
        parts = [shared, *(torch.cat((shared, torch.arange(*span))) for span in own[1:])]
        keys = [len(part) for part in parts] * rows
        seen = (torch.arange(rows)[:, None] * tokens + torch.cat(parts)).flatten().to(device)
    begin = [torch.tensor([0, *accumulate(n)], dtype=torch.int32) for n in (queries, keys)]
    return (begin[0].to(device), begin[1].to(device), max(queries), max(keys)), seen


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
