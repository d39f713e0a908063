from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mlflow_phi3.modeling.base import choose_dtype
from mlflow_phi3.modeling.hardware import has_bfloat16
from mlflow_phi3.modeling.precision import cast_weights


def test_weights_are_cast_and_buffers_are_not():
    layer = nn.Linear(3, 3)
    layer.register_buffer("frequencies", torch.rand(3), persistent=False)
    tied = nn.ModuleList([layer, nn.Linear(3, 3, bias=False)])
    tied[1].weight = layer.weight
    frequencies, exact = layer.frequencies.clone(), layer.weight.detach().clone()
    assert cast_weights(tied, torch.bfloat16) is tied
    assert {weight.dtype for weight in tied.parameters()} == {torch.bfloat16}
    assert tied[1].weight is layer.weight
    assert torch.equal(layer.weight, exact.bfloat16())
    assert torch.equal(layer.frequencies, frequencies)


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float32), (8, torch.bfloat16)])
def test_a_gpu_before_ampere_is_not_taken_to_have_bfloat16(monkeypatch, major, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    facts = SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    assert has_bfloat16("cuda:0") is (major == 8)
    assert choose_dtype("auto", name="microsoft/phi-4", device="cuda") == dtype
