"""A head over labels on the frozen base: made, worn, merged, asked."""

import numpy as np
import pytest
import torch

from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.classify import classify, prompt_of
from mlflow_phi3.modeling.generate import render_prompt
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from mlflow_phi3.training.engine.adapters import find_linear, initial_weights, plan_layout
from mlflow_phi3.training.peft_files import save_adapter
from mlflow_phi3.training.spec import LoraSpec
from tests.tiny_phi3 import conversation, example, write_checkpoint

LABELS = ("fault", "order", "praise")
TEXTS = ("the light", "hold the button until the light turns blue", "x", "blue blue blue")


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    return load_base(str(write_checkpoint(tmp_path_factory.mktemp("tiny"))), precision="float32")


@pytest.fixture(scope="module")
def base(answering):
    return with_labels(answering, LABELS)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """An adapter whose every tensor, the head's too, is far from where training begins."""
    linear = find_linear(base.model)
    layout = plan_layout(linear, LoraSpec(r=4))
    weights = initial_weights(linear, layout, seed=1)
    weights += 0.3 * torch.randn(layout.size, generator=torch.Generator().manual_seed(2))
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, layout, weights, base.path)
    return folder


def prompts(base):
    return [render_prompt(base.tokenizer, prompt_of(text)) for text in TEXTS]


def test_the_weights_are_the_bases_own(answering, base):
    assert answering.labels == ()
    assert base.labels == LABELS
    assert base.model.base_model is answering.model.base_model
    assert answering.model.generate is not None


def test_an_untuned_head_has_no_opinion(base):
    for shares in classify(base.model, prompts(base)):
        assert np.exp(shares) == pytest.approx([1 / 3] * 3)


def test_batches_do_not_change_what_transformers_says(base, adapter):
    with with_adapter(base, adapter) as model:
        together = list(classify(model, prompts(base), batch_size=3))
        alone = [
            model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1).tolist()
            for ids in prompts(base)
        ]
    assert np.array(together) == pytest.approx(np.array(alone), abs=1e-5)
    assert np.ptp(np.array(together)) > 0.1


def test_the_base_gets_its_own_head_back(base, adapter):
    head = base.model.score
    with with_adapter(base, adapter) as model:
        assert not torch.equal(model.get_base_model().score.weight, head.weight)
    assert base.model.score is head
    assert not head.weight.any()


def test_a_merged_classifier_keeps_labels_and_logits(base, adapter, tmp_path):
    merged = merge_adapter(base, adapter, tmp_path / "merged", dtype=torch.float32)
    reloaded = load_base(str(merged), precision="float32")
    assert reloaded.labels == LABELS
    rows = [example(base, conversation(text, "fault")) for text in TEXTS]
    with with_adapter(base, adapter) as model:
        found = compare_logits(model, reloaded.model, rows)
    assert found.within(1e-5)
    assert found.positions == len(TEXTS)


def test_a_head_that_knows_the_labels_is_kept_and_another_is_made_anew(base):
    assert with_labels(base, LABELS) is base
    assert with_labels(base, ("a", "b")).labels == ("a", "b")
