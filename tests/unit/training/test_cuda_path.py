"""The path that a GPU takes, on tensors without numbers: every operation's shapes, types, devices.

Flash's kernel runs on GPUs alone (tests/gpu). Its registration, autograd's too, is checked here,
and so is that nothing is left behind on the CPU.
"""

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from mlflow_phi3.modeling.base import Base
from mlflow_phi3.training.engine import attention_cuda, forward, head
from mlflow_phi3.training.engine.adapters import find_linear, plan_layout
from mlflow_phi3.training.engine.fused import FusedEngine
from mlflow_phi3.training.engine.interface import Row
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

SPEC = TrialSpec(1e-3, lora=LoraSpec(r=4))


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(forward, "attend", attention_cuda.attend_cuda)
    monkeypatch.setitem(head.LOGITS_AT_ONCE, "meta", head.LOGITS_AT_ONCE["cuda"])


def differentiate(model, examples, **options):
    base = Base(model.requires_grad_(requires_grad=False), None, "shape", "0", "shape")
    layout = plan_layout(find_linear(model), SPEC.lora)
    rows = []
    for _ in range(2):
        weights = torch.zeros(layout.size, device="meta")
        rows.append(Row(SPEC, layout, weights, torch.zeros_like(weights)))
    engine = FusedEngine(base, **options)
    batch = engine._pack(examples, share_prefix=True)
    found, losses = engine._differentiate(batch, rows)
    assert losses.shape == (2,)
    for slot in layout.slots:
        assert found[slot.name].shape == (2, *slot.shape)
    return {(gradient.device.type, gradient.dtype) for gradient in found.values()}


@pytest.mark.parametrize("architecture", ["phi3", "phi4-mini", "longrope", "window"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("recompute", [False, True])
def test_every_architecture(new_base, new_examples, architecture, dtype, recompute):
    model = new_base(architecture, dtype=dtype).model.to("meta")
    examples = new_examples((9, 14, 30, 6), prefix=5)
    assert differentiate(model, examples, recompute=recompute) == {("meta", dtype)}


@pytest.mark.parametrize(
    ("dtype", "capability", "flash"),
    [
        (torch.bfloat16, (8, 0), True),
        (torch.float16, (9, 0), True),
        (torch.bfloat16, (7, 5), False),  # a T4
        (torch.float32, (9, 0), False),
    ],
)
def test_the_kernel_is_called_where_it_is_known(monkeypatch, dtype, capability, flash):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention_cuda._has_flash(dtype, torch.device("cuda")) is flash


@pytest.mark.parametrize(
    ("heads", "key_heads", "tied", "vocabulary"),
    [(32, 32, False, 32064), (24, 8, True, 200064)],
    ids=["Phi-3-mini", "Phi-4-mini"],
)
def test_real_shapes(new_examples, heads, key_heads, tied, vocabulary):
    config = Phi3Config(
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=32,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.75 if tied else 1.0},
    )
    with torch.device("meta"):
        model = Phi3ForCausalLM(config).to(torch.bfloat16)
    examples = new_examples([1024] * 16, prefix=100)
    assert differentiate(model, examples) == {("meta", torch.bfloat16)}
