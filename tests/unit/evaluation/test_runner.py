import json
import math
import weakref
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.messages import Example
from mlflow_phi3.data.pipeline import prepare
from mlflow_phi3.evaluation.runner import evaluate
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.generate import (
    context_length,
    generate,
    generate_from_ids,
    render_prompt,
)
from mlflow_phi3.training.scoring import score
from tests.tiny_phi3 import conversation, example

TALKS = [
    conversation("hold the button", "until the light turns blue", 1),
    conversation("x", "y", 2),
    conversation("the light?", "blue", 3),
]
CONFIG = EvaluateConfig(answers=2, max_new_tokens=8, generation_batch_size=2)


def by_transformers(model, item):
    """Hugging Face's own loss: labels of -100 are not counted."""
    ids = torch.as_tensor(item.input_ids)[None].long()
    labels = torch.where(torch.as_tensor(item.supervised)[None], ids, -100)
    return float(model(input_ids=ids, labels=labels).loss)


def test_losses_are_hugging_faces(base, adapter):
    examples = [example(base, talk) for talk in TALKS]
    with with_adapter(base, adapter) as model:
        expected = [by_transformers(model, item) for item in examples]
    found = evaluate(base, adapter, examples, [], config=CONFIG)
    assert [row.loss for row in found.per_example] == pytest.approx(expected, rel=1e-5)
    assert [row.place for row in found.per_example] == [f"test.jsonl:{n}" for n in (1, 2, 3)]
    weights = [row.tokens for row in found.per_example]
    assert weights == [int(item.supervised.sum()) for item in examples]
    mean = float(np.average(expected, weights=weights))
    assert found.metrics["loss"] == pytest.approx(mean, rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)


def test_base_and_tuned_differ_and_the_base_stays(base, adapter):
    examples = [example(base, talk) for talk in TALKS]
    first = evaluate(base, None, examples, [], config=CONFIG)
    tuned = evaluate(base, adapter, examples, [], config=CONFIG)
    again = evaluate(base, None, examples, [], config=CONFIG)
    assert first == again
    assert tuned.metrics["loss"] != first.metrics["loss"]


def test_token_accuracy_counts_most_likely_tokens(base):
    item = example(base, TALKS[0])
    ids = torch.as_tensor(item.input_ids)[None].long()
    guess = base.model(ids).logits[0, :-1].argmax(-1)
    right = (guess == ids[0, 1:])[torch.as_tensor(item.supervised)[1:]]
    (found,) = score(base, None, [item])
    assert found.correct == int(right.sum())


def test_answers_are_those_of_generate(base, adapter):
    examples = [example(base, talk) for talk in TALKS]
    found = evaluate(base, adapter, examples, TALKS, config=CONFIG)
    with with_adapter(base, adapter) as model:
        expected = generate(
            model, base.tokenizer, [talk.messages[:-1] for talk in TALKS[:2]], max_new_tokens=8
        )
    assert [row.answer for row in found.predictions] == expected
    assert [row.expected for row in found.predictions] == ["until the light turns blue", "y"]
    assert set(found.metrics) >= {"exact_match", "f1", "rouge_l"}


def test_of_several_answers_the_last_is_asked_for(base):
    first = conversation("hold the button", "until the light turns blue")
    talk = replace(first, messages=(*first.messages, *TALKS[2].messages))
    item = example(base, talk)
    item.supervised[int(np.argmax(example(base, first).supervised))] = True
    (found,) = evaluate(base, None, [item], [talk], config=CONFIG).predictions
    assert [found.answer] == generate(
        base.model, base.tokenizer, [talk.messages[:-1]], max_new_tokens=8
    )


def test_a_conversation_beyond_the_context_is_answered_as_it_was_cut(base, tmp_path):
    limit = context_length(base.model)
    asked, said = "hold the button " * 100, "until the light turns blue"
    row = {"messages": [asdict(turn) for turn in conversation(asked, said).messages]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "x", "answer": "y"}))
    settings = PrepareConfig(
        train_data=str(tmp_path / "train.jsonl"),
        test_data=str(tmp_path / "test.jsonl"),
        overlength="truncate",
        prepare_workers=1,
    )
    data = prepare(settings, base.tokenizer, folder=tmp_path, context_length=limit)
    examples, talks = data.examples("test"), data.conversations("test")
    assert len(render_prompt(base.tokenizer, talks[0].messages[:-1])) > limit
    (found,) = evaluate(base, None, examples, talks, config=CONFIG).predictions
    kept = examples[0].input_ids[: int(np.argmax(examples[0].supervised))]
    expected = generate_from_ids(base.model, base.tokenizer, [kept], max_new_tokens=8)
    assert ([found.answer], found.expected) == (expected, said)


def test_no_answers_wanted_none_read(base):
    def unread():
        raise AssertionError
        yield

    found = evaluate(base, None, [], unread(), config=EvaluateConfig(answers=0))
    assert found.predictions == ()
    assert "f1" not in found.metrics
    assert math.isnan(found.metrics["loss"])


def test_an_example_without_a_supervised_token_counts_nothing(base):
    bare = Example(np.array([1, 2, 3], dtype=np.int32), np.zeros(3, dtype=np.bool_), "x:1")
    both = evaluate(base, None, [bare, example(base, TALKS[0])], [], config=CONFIG)
    alone = evaluate(base, None, [example(base, TALKS[0])], [], config=CONFIG)
    assert both.metrics == alone.metrics


def test_progress_tells_both_stages(base):
    seen = []
    evaluate(
        base,
        None,
        [example(base, talk) for talk in TALKS],
        TALKS,
        config=CONFIG,
        on_progress=lambda *step: seen.append(step),
    )
    assert seen == [("loss", 1, 0), ("loss", 2, 0), ("loss", 3, 0), ("answers", 2, 2)]


def test_an_example_read_is_an_example_forgotten(base):
    """So memory does not grow with the test set, beyond a number and a name for each row."""
    alive, most = weakref.WeakSet(), 0

    class Ids(np.ndarray):  # a bare array takes no weak references into a set
        __hash__ = object.__hash__

    def rows():
        nonlocal most
        for line in range(120):
            ids = np.full(200, 5 + line, dtype=np.int32).view(Ids)
            alive.add(ids)
            most = max(most, len(alive))
            yield Example(ids, np.arange(200) > 198, f"test.jsonl:{line}")

    evaluate(base, None, rows(), [], config=EvaluateConfig(answers=0))
    assert most < 45  # two passes of the engine
