"""Batches hold what losses depend on, once, and nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlflow_phi3.data.messages import Example
from mlflow_phi3.training.checkpoint import digest_examples
from mlflow_phi3.training.engine.batching import SHORTEST_PREFIX, Limits, pack
from mlflow_phi3.training.passes import split_by_tokens


@st.composite
def some_examples(draw):
    shared = draw(st.lists(st.integers(3, 9), max_size=8))
    examples = []
    for _ in range(draw(st.integers(1, 5))):
        own = draw(st.lists(st.integers(3, 9), min_size=2, max_size=12))
        ids = np.array(shared + own, dtype=np.int32)
        supervised = np.array(draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
        supervised[0] = False
        examples.append(Example(ids, supervised, label=1))
    return examples


def context(batch, row):
    """Ids that the token at ``row`` can see, itself last."""
    if row < batch.prefix:
        return batch.ids[: row + 1].tolist()
    start = next(start for start, end in batch.spans if start <= row < end)
    return [*batch.ids[: batch.prefix].tolist(), *batch.ids[start : row + 1].tolist()]


@given(some_examples(), st.booleans(), st.booleans())
def test_each_target_sees_exactly_what_precedes_it(examples, share_prefix, trim):
    batch = pack(examples, share_prefix=share_prefix, trim=trim)
    expected = [
        (owner, example.input_ids[:at].tolist(), int(example.input_ids[at]))
        for owner, example in enumerate(examples)
        for at in np.flatnonzero(example.supervised)
    ]
    got = [
        (int(owner), context(batch, int(row)), int(target))
        for owner, row, target in zip(batch.owners, batch.rows, batch.targets, strict=True)
    ]
    assert got == expected
    for row, target_context in zip(batch.rows, (c for _, c, _ in got), strict=True):
        assert batch.positions[row] == len(target_context) - 1


@given(some_examples())
def test_a_label_is_predicted_by_the_last_token_of_the_whole(examples):
    batch = pack(examples, classifies=True)
    for owner, (row, target) in enumerate(zip(batch.rows, batch.targets, strict=True)):
        assert context(batch, int(row)) == examples[owner].input_ids.tolist()
        assert target == 1


@given(some_examples())
def test_trimmed_tokens_are_those_after_the_last_that_predicts(examples):
    whole, trimmed = (
        pack(examples, share_prefix=False, trim=False),
        pack(examples, share_prefix=False),
    )
    needed = sum(int(np.flatnonzero(e.supervised)[-1]) for e in examples if e.supervised.any())
    assert len(whole.ids) == sum(len(e.input_ids) for e in examples)
    assert len(trimmed.ids) == needed


def test_a_common_beginning_is_there_once(new_examples):
    examples = new_examples((12, 15, 20), prefix=6)
    batch = pack(examples, trim=False)
    assert batch.prefix == 6
    assert len(batch.ids) == 6 + 6 + 9 + 14
    assert pack(new_examples((12, 15), prefix=SHORTEST_PREFIX - 2)).prefix == 0
    assert pack(examples[:1]).prefix == 0


def test_no_prefix_where_it_would_not_be_exact(new_examples):
    examples = new_examples((12, 15, 30), prefix=6)
    assert pack(examples, limits=Limits(window=8)).prefix == 0
    assert pack(examples, limits=Limits(window=64)).prefix == 6
    mixed = pack(examples, limits=Limits(original_context=20))
    assert mixed.prefix == 0
    assert mixed.beyond.sum() == mixed.spans[2][1] - mixed.spans[2][0]
    assert pack(examples, limits=Limits(original_context=10)).prefix == 6


@given(some_examples(), st.integers(1, 40))
def test_splitting_keeps_order_and_budget(examples, budget):
    parts = list(split_by_tokens(examples, budget))
    assert [example for part in parts for example in part] == examples
    for part in parts:
        assert len(part) == 1 or sum(len(e.input_ids) for e in part) <= budget


def test_the_digest_sees_every_change(new_examples):
    examples = new_examples((5, 6))
    digests = {digest_examples(examples), digest_examples(examples[::-1])}
    first = examples[0]
    digests.add(digest_examples([Example(first.input_ids, ~first.supervised), examples[1]]))
    digests.add(digest_examples([Example(first.input_ids, first.supervised, label=1), examples[1]]))
    assert len(digests) == 4
