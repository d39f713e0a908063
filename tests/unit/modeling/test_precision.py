import torch
from torch import nn

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
