"""Examples -> one flat batch without padding, without what no loss depends on, the prefix once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.messages import Example

SHORTEST_PREFIX = 4  # a shared prefix costs one more attention call a layer

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the model's architecture says about long sequences.

    Args:
        window: Positions a token attends to, itself included; None is all before it.
        original_context: Sequences longer than this are turned by longrope's long factors.
    """

    window: int | None = None
    original_context: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of several sequences, one after the other; first the prefix that all share.

    Args:
        ids: int64 ``[tokens]``.
        positions: int64 ``[tokens]``, position within the sequence.
        beyond: bool ``[tokens]``, belongs to a sequence longer than the original context.
        prefix: Tokens at the front that begin every sequence; 0 when nothing is shared.
        spans: (start, end) of each sequence's own tokens, in the order of the examples.
        rows: int64 ``[targets]``, tokens whose hidden state predicts; may repeat.
        targets: int64 ``[targets]``, token ids (or class indices) to be predicted.
        owners: int64 ``[targets]``, index of the example each target belongs to.
    """

    ids: Indices
    positions: Indices
    beyond: npt.NDArray[np.bool_]
    prefix: int
    spans: tuple[tuple[int, int], ...]
    rows: Indices
    targets: Indices
    owners: Indices


def pack(
    examples: Sequence[Example],
    *,
    classifies: bool = False,
    share_prefix: bool = True,
    trim: bool = True,
    limits: Limits | None = None,
) -> Batch:
    """Lay ``examples`` out as one batch.

    Args:
        examples: Tokenised conversations, at least one.
        classifies: The last token predicts the label, instead of each token the next.
        share_prefix: Compute a common beginning once; exact, as all see the same before it.
        trim: Leave out the tokens after the last one that predicts.
        limits: Of the model.
    """
    limits = limits or Limits()
    lengths = [_needed(example, classifies=classifies, trim=trim) for example in examples]
    beyond = [
        limits.original_context is not None and len(example.input_ids) > limits.original_context
        for example in examples
    ]
    # Rotated keys can be shared only between sequences that are turned alike, and only where the
    # last token of the longest still sees the first.
    alike = len(set(beyond)) == 1 and max(lengths) <= (limits.window or max(lengths))
    prefix = _common_prefix(examples, lengths) if share_prefix and alike else 0
    ids: list[npt.NDArray[np.int32]] = [examples[0].input_ids[:prefix]]
    positions, rows, targets, spans = [np.arange(prefix)], [], [], []
    start = prefix
    for example, length in zip(examples, lengths, strict=True):
        end = start + max(0, length - prefix)
        ids.append(example.input_ids[prefix:length])
        positions.append(np.arange(prefix, prefix + end - start))
        spans.append((start, end))
        predicting, wanted = _targets(example, classifies=classifies)
        rows.append(np.where(predicting < prefix, predicting, predicting - prefix + start))
        targets.append(wanted)
        start = end
    counts = [end - begin for begin, end in spans]
    return Batch(
        ids=np.concatenate(ids).astype(np.int64),
        positions=np.concatenate(positions).astype(np.int64),
        beyond=np.concatenate([np.full(prefix, beyond[0]), np.repeat(beyond, counts)]),
        prefix=prefix,
        spans=tuple(spans),
        rows=np.concatenate(rows),
        targets=np.concatenate(targets),
        owners=np.repeat(np.arange(len(examples)), [len(wanted) for wanted in targets]),
    )


def _needed(example: Example, *, classifies: bool, trim: bool) -> int:
    """Tokens of ``example`` that some loss depends on: up to the last one that predicts."""
    if classifies or not trim:
        return len(example.input_ids)
    supervised = np.flatnonzero(example.supervised)
    return int(supervised[-1]) if len(supervised) else 0


def _targets(example: Example, *, classifies: bool) -> tuple[Indices, Indices]:
    """Positions that predict, and what they should."""
    if classifies:
        return np.array([len(example.input_ids) - 1]), np.array([example.label])
    supervised = np.flatnonzero(example.supervised)
    return supervised - 1, example.input_ids[supervised].astype(np.int64)


def _common_prefix(examples: Sequence[Example], lengths: Sequence[int]) -> int:
    """Tokens with which all sequences begin; 0 where sharing them would not pay."""
    shortest = min(lengths)
    if len(examples) < 2 or shortest < SHORTEST_PREFIX:
        return 0
    first = examples[0].input_ids[:shortest]
    common = shortest
    for example in examples[1:]:
        differs = np.flatnonzero(example.input_ids[:common] != first[:common])
        common = int(differs[0]) if len(differs) else common
    return common if common >= SHORTEST_PREFIX else 0
