"""The fused engine: K trials that see the same examples, in one pass over the frozen base."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.hardware import fast_products
from mlflow_phi3.training.engine.adapters import HEAD, PEFT_PREFIX, Slot
from mlflow_phi3.training.engine.batching import Batch, pack
from mlflow_phi3.training.engine.forward import forward, read_frozen
from mlflow_phi3.training.engine.head import frozen_head_loss, measure
from mlflow_phi3.training.engine.interface import Row, Scores
from mlflow_phi3.training.engine.linear import Adapters, Dropout
from mlflow_phi3.training.engine.loss import get_loss, is_plain
from mlflow_phi3.training.memory import OUT_OF_MEMORY, is_out_of_memory

logger = logging.getLogger(__name__)


class FusedEngine:
    """See :class:`mlflow_phi3.training.engine.interface.Engine`.

    Args:
        base: A Phi-3 architecture; its weights are read, nothing of it is changed.
        share_prefix: Compute a common beginning of the sequences once.
        trim: Leave out tokens on which no loss depends.
        recompute: Keep only each layer's input for the backward pass; set by itself when
            memory runs out.
    """

    def __init__(
        self,
        base: Base,
        *,
        share_prefix: bool = True,
        trim: bool = True,
        recompute: bool = False,
    ) -> None:
        self._frozen = read_frozen(base.model)
        head = base.model.score if self._frozen.head is None else base.model.lm_head
        self._head = head.weight.detach()
        self._share_prefix, self._trim, self._recompute = share_prefix, trim, recompute

    def accumulate_gradients(self, examples: Sequence[Example], rows: Sequence[Row]) -> list[float]:
        """Summed training loss of ``examples`` for each row; gradients are added to the rows."""
        dropout = any(row.spec.lora.dropout for row in rows)
        # Dropout masks differ between sequences, so that nothing of them is common.
        batch = self._pack(examples, share_prefix=self._share_prefix and not dropout)
        if not len(batch.targets):
            return [0.0] * len(rows)
        try:
            found, losses = self._differentiate(batch, rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._recompute:
                raise TrainingError(
                    OUT_OF_MEMORY,
                    f"{len(rows)} adapters with {len(batch.ids)} tokens do not fit into memory",
                    where=str(self._frozen.embedding.device),
                    fix="lower max_length or lora_r",
                ) from error
        else:
            _scatter(rows, found)
            return [float(loss) for loss in losses.tolist()]
        # Not above, where the error still holds all that the failed pass has kept.
        logger.warning("out of memory: from now on activations are computed twice, not kept")
        self._recompute = True
        torch.cuda.empty_cache()
        return self.accumulate_gradients(examples, rows)

    def _differentiate(self, batch: Batch, rows: Sequence[Row]) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients ``[K, *shape]`` by slot, and each row's summed loss ``[K]``."""
        stacked = stack_rows(rows, self._frozen.embedding.dtype)
        leaves = {name: tensor.requires_grad_() for name, tensor in stacked.items()}
        adapters = find_adapters(leaves, rows, batch, train=True)
        with torch.enable_grad(), fast_products(self._frozen.embedding.dtype):
            hidden = forward(self._frozen, batch, adapters, len(rows), recompute=self._recompute)
            scales = torch.tensor([row.scale for row in rows], device=hidden.device)
            total, losses = self._loss(hidden, batch, rows, scales, leaves)
            found = torch.autograd.grad(total, list(leaves.values()))
        return dict(zip(leaves, found, strict=True)), losses

    @torch.no_grad()
    def score(self, examples: Sequence[Example], rows: Sequence[Row | None]) -> list[Scores]:
        """Negative log-likelihood and hits of each example for each row."""
        batch = self._pack(examples, share_prefix=self._share_prefix)
        with fast_products(self._frozen.embedding.dtype):
            if any(row is None for row in rows):
                return [self._score(batch, len(examples), [r] if r else [])[0] for r in rows]
            return self._score(batch, len(examples), [row for row in rows if row is not None])

    def close(self) -> None:
        """Nothing to undo."""

    def _pack(self, examples: Sequence[Example], *, share_prefix: bool) -> Batch:
        return pack(
            examples,
            classifies=self._frozen.head is None,
            share_prefix=share_prefix,
            trim=self._trim,
            limits=self._frozen.limits,
        )

    def _loss(
        self,
        hidden: Tensor,
        batch: Batch,
        rows: Sequence[Row],
        scales: Tensor,
        leaves: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """What is differentiated, and the summed loss of each row ``[K]``."""
        targets = torch.from_numpy(batch.targets).to(hidden.device)
        spec = rows[0].spec  # the loss is the same for all: see Trajectory.fuses_with
        loss = get_loss(spec, hidden.device)
        if self._frozen.head is not None:
            loss_or_plain = None if is_plain(spec) else loss
            return frozen_head_loss(hidden, self._frozen.head, targets, scales, loss_or_plain)
        logits = torch.bmm(hidden, self._heads(leaves, len(rows)).mT).float()
        each = loss(logits.flatten(0, 1), targets.repeat(len(rows))).view(len(rows), -1).sum(1)
        return (each * scales).sum(), each.detach()

    def _score(self, batch: Batch, n_examples: int, rows: Sequence[Row]) -> list[Scores]:
        count = max(1, len(rows))
        stacked = stack_rows(rows, self._frozen.embedding.dtype)
        adapters = find_adapters(stacked, rows, batch, train=False)
        hidden = forward(self._frozen, batch, adapters, count)
        targets = torch.from_numpy(batch.targets).to(hidden.device)
        scores = []
        for own, head in zip(hidden, self._heads(stacked, count), strict=True):
            nll, hit = measure(own, head, targets)
            lost, hits = (
                np.bincount(batch.owners, each.cpu().numpy(), n_examples) for each in (nll, hit)
            )
            tokens = np.bincount(batch.owners, minlength=n_examples)
            scores.append(Scores(lost.astype(np.float64), hits.astype(np.int64), tokens))
        return scores

    def _heads(self, stacked: Mapping[str, Tensor], count: int) -> Tensor:
        """``[K, classes, width]``: each row's own where the head is trained, else the base's."""
        return stacked.get(f"{PEFT_PREFIX}{HEAD}.weight", self._head.expand(count, -1, -1))


def stack_rows(rows: Sequence[Row], dtype: torch.dtype) -> dict[str, Tensor]:
    """Each slot's tensors of all rows ``[K, *shape]`` in the base's precision.

    Rows of smaller rank are padded with zeros. A zero row of A meets a zero column of B, so that
    neither ever gets a gradient: the padding is exact.
    """
    if not rows:
        return {}
    first = rows[0].layout
    if len(rows) == 1 or all(row.layout.slots == first.slots for row in rows):
        weights = [row.weights for row in rows]
        flat = (torch.stack(weights) if len(rows) > 1 else weights[0][None]).to(dtype)
        return {slot.name: slot.view(flat).detach() for slot in first.slots}
    stacked = {}
    for slots in zip(*(row.layout.slots for row in rows), strict=True):
        shape = [max(sizes) for sizes in zip(*(slot.shape for slot in slots), strict=True)]
        tensor = rows[0].weights.new_zeros(len(rows), *shape, dtype=dtype)
        for part, slot, row in zip(tensor, slots, rows, strict=True):
            _corner(part, slot).copy_(slot.view(row.weights))
        stacked[slots[0].name] = tensor
    return stacked


def find_adapters(
    stacked: Mapping[str, Tensor], rows: Sequence[Row], batch: Batch, *, train: bool
) -> dict[str, Adapters]:
    """The K adapters of each linear layer, by the layer's name."""
    if not rows:
        return {}
    scale = torch.tensor([row.spec.lora.scale for row in rows], device=rows[0].weights.device)
    drops = train and any(row.spec.lora.dropout for row in rows)
    adapters = {}
    for at, module in enumerate(rows[0].layout.modules):
        adapters[module] = Adapters(
            stacked[f"{PEFT_PREFIX}{module}.lora_A.weight"],
            stacked[f"{PEFT_PREFIX}{module}.lora_B.weight"],
            scale.view(-1, 1, 1),
            _plan_dropout(rows, batch, at) if drops else None,
        )
    return adapters


def _plan_dropout(rows: Sequence[Row], batch: Batch, module: int) -> Dropout:
    """Masks by what a row's trial sees, not by the piece it comes in: others decide on that."""
    own = [end - start for start, end in batch.spans]
    seeds = [
        [hash((seed, step, first + at, module)) & 0x7FFFFFFFFFFFFFFF for at in range(len(own))]
        for seed, step, first in ((row.spec.seed, *row.moment) for row in rows)
    ]
    predicting = np.bincount(batch.owners, minlength=len(own)).tolist()
    return Dropout([row.spec.lora.dropout for row in rows], seeds, (own, predicting))


def _scatter(rows: Sequence[Row], found: Mapping[str, Tensor]) -> None:
    """Add the gradients ``[K, *shape]`` to each row's flat one."""
    first = rows[0].layout.slots
    alike = all(row.layout.slots == first for row in rows)
    flat = torch.cat([found[slot.name].flatten(1) for slot in first], 1) if alike else None
    for at, row in enumerate(rows):
        assert row.gradient is not None  # noqa: S101 - the caller trains
        if flat is not None:  # one operation a row, in place of one a tensor
            row.gradient.add_(flat[at])
            continue
        for slot in row.layout.slots:
            slot.view(row.gradient).add_(_corner(found[slot.name][at], slot))


def _corner(tensor: Tensor, slot: Slot) -> Tensor:
    """The part of a padded tensor that is the slot's."""
    return tensor[tuple(slice(size) for size in slot.shape)]
