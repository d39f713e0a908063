"""A frozen linear layer with K adapters beside it, and the pointwise step that comes before it.

Row k of every activation is trial k: ``[K, tokens, width]``. The frozen weights see one matrix
product over ``K * tokens`` tokens, the adapters one batched product. No gradient of the frozen
weights is ever computed; those in four bits are made dense for each product. What precedes a linear
layer (RMS norm, SwiGLU) is part of it: its input is kept for the backward pass and its output,
three times as large in all, computed again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mlflow_phi3.modeling.quantization import FourBit

_fused = torch.ops.aten._fused_rms_norm  # noqa: SLF001 - what functional.rms_norm calls on a GPU
_fused_backward = torch.ops.aten._fused_rms_norm_backward  # noqa: SLF001 - and its gradient

Weight = Tensor | FourBit
"""Frozen weights ``[out, in]``."""

Vjp = Callable[[Tensor], Tensor]
"""Vector-Jacobian product: gradient of an output -> gradient of the input."""

Before = Callable[[Tensor], tuple[Tensor, Vjp]]
"""A pointwise step: its output, and how to go back."""


def identity(source: Tensor) -> tuple[Tensor, Vjp]:
    """Nothing before the layer."""
    return source, lambda gradient: gradient


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Root mean square norm (arXiv:1910.07467), as in transformers' ``Phi3RMSNorm``.

    Args:
        weight: ``[width]``, frozen.
        eps: Added to the mean square.
    """

    weight: Tensor
    eps: float

    def __call__(self, source: Tensor) -> tuple[Tensor, Vjp]:
        """Norm of ``source [..., width]``, computed in float32."""
        width = source.shape[-1]
        if source.device.type != "cpu":  # one kernel where there is one, in place of ten
            out, inverse = _fused(source, [width], self.weight, self.eps)
            facts = source, [width], inverse, self.weight, [True, False]
            return out, lambda gradient: _fused_backward(gradient, *facts)[0]
        wide = source.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = torch.rsqrt(square.div_(width).add_(self.eps))

        def vjp(gradient: Tensor) -> Tensor:
            inner = (gradient * self.weight).float()
            # d/dh of h r(h): r g - h r^3 <g, h> / width
            along = (inner * wide).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(width)
            return inner.mul_(inverse).addcmul_(wide, along, value=-1).to(source.dtype)

        return (wide * inverse).to(source.dtype).mul_(self.weight), vjp


def swiglu(source: Tensor) -> tuple[Tensor, Vjp]:
    """``silu(gate) * up`` (arXiv:2002.05202) of ``source [..., 2 * width]``, gate first."""
    gate, up = source.chunk(2, dim=-1)
    opened = functional.silu(gate)

    def vjp(gradient: Tensor) -> Tensor:
        out = torch.empty_like(source)
        to_gate, to_up = out.chunk(2, dim=-1)
        torch.mul(gradient, opened, out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=to_gate)
        return out

    return opened * up, vjp


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout on the adapters' input whose masks are made again, not kept.

    Args:
        rates: Of each row, 0 <= p < 1.
        seeds: Of each row, one a sequence; equal seeds give equal masks, whoever trains beside.
        sizes: Each sequence's tokens; and those that predict, as the last layer keeps only these.
    """

    rates: Sequence[float]
    seeds: Sequence[Sequence[int]]
    sizes: Sequence[Sequence[int]]

    def __call__(self, like: Tensor) -> Tensor:
        """Mask for ``like [K, tokens, width]``: zero, or one over the share that is kept."""
        mask = torch.empty_like(like)
        sizes = next(list(each) for each in self.sizes if sum(each) == like.shape[1])
        for row, rate, seeds in zip(mask, self.rates, self.seeds, strict=True):
            for part, seed in zip(row.split(sizes), seeds, strict=True):
                random = torch.Generator(like.device).manual_seed(seed)
                part.bernoulli_(1.0 - rate, generator=random)
            row.div_(1.0 - rate)
        return mask


@dataclass(frozen=True, slots=True)
class Adapters:
    """The K adapters of one linear layer.

    Args:
        a: ``[K, r, in]``; rows of smaller rank are padded with zeros, which stay zero.
        b: ``[K, out, r]``.
        scale: float ``[K, 1, 1]``.
        dropout: On their input, where a row wants it.
    """

    a: Tensor
    b: Tensor
    scale: Tensor
    dropout: Dropout | None = None


def linear(
    source: Tensor,
    weight: Weight,
    adapters: Adapters | None,
    *,
    before: Before = identity,
    residual: Tensor | None = None,
) -> Tensor:
    """``before(source) @ (weight + scale * b @ a).T + residual``.

    Args:
        source: ``[K, tokens, in]`` (twice that for SwiGLU).
        weight: ``[out, in]``, frozen.
        adapters: None where the layer has none.
        before: Pointwise step before the product.
        residual: ``[K, tokens, out]``.
    """
    if adapters is None:
        out: Tensor = _Linear.apply(source, residual, None, None, weight, before, None, None)  # type: ignore[no-untyped-call]  # torch's apply has no types
    else:
        a, b, scale, dropout = adapters.a, adapters.b, adapters.scale, adapters.dropout
        out = _Linear.apply(source, residual, a, b, weight, before, scale, dropout)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return out


def pointwise(source: Tensor, before: Before) -> Tensor:
    """``before`` alone, keeping only its input."""
    out: Tensor = _Pointwise.apply(source, before)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return out


def _dense(weight: Weight) -> Tensor:
    return weight.dense() if isinstance(weight, FourBit) else weight


class _Linear(Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - the signature is autograd's
        ctx: Any,
        source: Tensor,
        residual: Tensor | None,
        a: Tensor | None,
        b: Tensor | None,
        weight: Weight,
        before: Before,
        scale: Tensor | None,
        dropout: Dropout | None,
    ) -> Tensor:
        x, _ = before(source)
        out = torch.matmul(x, _dense(weight).t())
        inner = None
        if a is not None and b is not None and scale is not None:
            inner = torch.bmm(x if dropout is None else x * dropout(x), a.mT).mul_(scale)
            out.baddbmm_(inner, b.mT)
        if residual is not None:
            # Last: in bfloat16 the small update would be lost in the large sum.
            out.add_(residual)
        ctx.save_for_backward(source, a, b, inner)
        ctx.frozen = weight, before, scale, dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        source, a, b, inner = ctx.saved_tensors
        weight, before, scale, dropout = ctx.frozen
        to_residual = gradient if ctx.needs_input_grad[1] else None
        to_source = to_a = to_b = to_inner = mask = None
        x, vjp = before(source)
        if inner is not None:
            to_inner = torch.bmm(gradient, b).mul_(scale)
            mask = None if dropout is None else dropout(x)
            to_a = torch.bmm(to_inner.mT, x if mask is None else x * mask)
            to_b = torch.bmm(gradient.mT, inner)
        del x
        if ctx.needs_input_grad[0]:
            to_x = torch.matmul(gradient, _dense(weight))
            if to_inner is not None and mask is None:
                to_x.baddbmm_(to_inner, a)
            elif to_inner is not None and mask is not None:
                to_x.add_(torch.bmm(to_inner, a).mul_(mask))
            to_source = vjp(to_x)
        return to_source, to_residual, to_a, to_b, None, None, None, None


class _Pointwise(Function):
    @staticmethod
    def forward(ctx: Any, source: Tensor, before: Before) -> Tensor:
        ctx.save_for_backward(source)
        ctx.before = before
        return before(source)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (source,) = ctx.saved_tensors
        return ctx.before(source)[1](gradient), None
