"""A base in four bits: what is loaded, and that it is one model in every form."""

import pickle

import pytest
import torch
from torch import nn

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling import quantization
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from mlflow_phi3.modeling.portable import load_portable, save_pinned
from mlflow_phi3.modeling.quantization import FourBit, dense_weight, frozen_weight
from mlflow_phi3.serving.package import package_chat
from tests.tiny_phi3 import conversation, example


@pytest.fixture(scope="module")
def small(base):
    return load_base(base.name, precision="float32", quantization="nf4")


def linear(model):
    return {n: layer for n, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def test_all_but_the_head_is_in_four_bits(base, small):
    assert (base.quantization, small.quantization) == ("none", "nf4")
    whole = linear(base.model)
    for name, layer in linear(small.model).items():
        weight = frozen_weight(layer)
        if name == "lm_head":
            assert torch.equal(weight, whole[name].weight)
            continue
        assert isinstance(weight, FourBit)
        assert weight.packed.numel() * 2 == whole[name].weight.numel()
        # NF4's widest step is 0.3 of a block's largest weight, so nothing is off by more than half.
        error = (weight.dense() - whole[name].weight).abs().max()
        assert 0 < error < 0.16 * whole[name].weight.abs().max()
    assert small.revision == base.revision
    assert small.tags["phi3.base_quantization"] == "nf4"


def test_rows_that_are_no_whole_blocks_are_read_right(tmp_path):
    """480 weights are seven blocks and a half: with AVX-512 bitsandbytes alone misreads them."""
    whole, small = load_base("demo"), load_base("demo", quantization="nf4")
    layers = linear(whole.model)
    assert {layer.in_features % 64 for layer in layers.values()} == {0, 32}
    for name, layer in linear(small.model).items():
        weight, exact = dense_weight(layer), layers[name].weight
        assert (weight - exact).abs().max() < 0.16 * exact.abs().max(), name
        assert isinstance(frozen_weight(layer), FourBit) is (
            name != "lm_head" and layer.in_features % 64 == 0
        )
        x = torch.randn(3, layer.in_features)
        with torch.inference_mode():
            assert torch.allclose(layer(x), x @ weight.T, rtol=1e-4, atol=1e-5)


def test_layers_compute_with_their_dense_weights_and_keep_them(small):
    layer = small.model.model.layers[0].mlp.down_proj
    before, x = frozen_weight(layer).packed.clone(), torch.randn(3, layer.in_features)
    with torch.inference_mode():
        out = layer.eval()(x)
    assert torch.equal(out, x @ dense_weight(layer).T)
    assert torch.equal(frozen_weight(layer).packed, before)
    assert not layer.support_avx512bf16_for_cpu


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_what_is_served_is_what_was_trained(small, base, adapter, tmp_path, form):
    write = merge_adapter if form == "merged" else save_pinned
    folder = write(small, adapter, tmp_path / form, dtype=torch.float32)
    loaded = load_portable(folder, precision="float32")
    rows = [example(base, conversation("hold the light?", "until blue"))]
    with with_adapter(small, adapter) as tuned:
        assert compare_logits(tuned, loaded.model, rows).within(1e-5)
        of_the_full_base = load_portable(
            merge_adapter(base, adapter, tmp_path / "full", dtype=torch.float32),
            precision="float32",
        )
        assert not compare_logits(tuned, of_the_full_base.model, rows).within(1e-3)
    assert loaded.quantization == "none"
    assert not hasattr(loaded.model.config, "quantization_config")
    assert small.quantization == "nf4"
    needed = package_chat(folder, tmp_path / "code").pip_requirements
    assert any(one.startswith("bitsandbytes==") for one in needed) is (form == "adapter")


def test_a_classifier_keeps_its_layers(small, adapter):
    classifier = with_labels(small, ("a", "b"))
    assert classifier.quantization == "nf4"
    assert isinstance(classifier.model.score, nn.Linear)
    assert classifier.model.is_loaded_in_4bit


def test_it_travels_to_another_process(small):
    copied = pickle.loads(pickle.dumps(small))
    ids = torch.arange(3, 20)[None]
    assert copied.quantization == "nf4"
    assert torch.equal(copied.model(ids).logits, small.model(ids).logits)


def test_without_bitsandbytes_it_says_what_to_install(base, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"PHI3-U012 .*bitsandbytes.*\[quantization\]"):
        load_base(base.name, quantization="nf4")
