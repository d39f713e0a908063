"""Every optimizer by name: it learns, and goes on from a checkpoint as if nothing had been."""

import math
from dataclasses import replace

import pytest
import torch

from mlflow_phi3.errors import UsageError
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training import optimizer as optimizers
from mlflow_phi3.training.engine.adapters import find_linear, initial_weights, plan_layout
from mlflow_phi3.training.optimizer import BUILT_IN, make_optimizer
from mlflow_phi3.training.peft_files import load_adapter
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

SPEC = TrialSpec(1e-2, weight_decay=0.1)
LORA = LoraSpec(r=128)  # of this rank the matrices have 4,096 weights: 8 bits are used from there


def start(layout, weights, name):
    views = layout.views(weights)
    return views, make_optimizer(replace(SPEC, optimizer=name), views.values())


def step(views, optimizer, number):
    """Towards zero, with some noise that depends on the step alone."""
    random = torch.Generator().manual_seed(number)
    for view in views.values():
        view.grad = 2 * view + 0.01 * torch.randn(view.shape, generator=random)
    optimizer.step()


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_continued_optimizer_is_the_undisturbed_one(new_base, tmp_path, name):
    linear = find_linear(new_base().model)
    layout = plan_layout(linear, LORA)
    weights = initial_weights(linear, layout, 0) + 0.1
    began = float(weights.norm())
    views, optimizer = start(layout, weights, name)
    for number in range(3):
        step(views, optimizer, number)
    progress = disk.Progress(3, 0, math.inf, math.inf, {})
    folder = tmp_path / "last"
    disk.save_checkpoint(
        folder, layout, weights, base_name="b", optimizer=optimizer, progress=progress
    )
    again = load_adapter(folder, layout)
    views_again, optimizer_again = start(layout, again, name)
    disk.load_optimizer(folder, optimizer_again)
    for number in range(3, 6):
        step(views, optimizer, number)
        step(views_again, optimizer_again, number)
    assert torch.equal(weights, again)
    assert float(weights.norm()) < began


def test_eight_bits_are_eight_bits(new_base):
    linear = find_linear(new_base().model)
    layout = plan_layout(linear, LORA)
    views, optimizer = start(layout, initial_weights(linear, layout, 0), "adamw_8bit")
    step(views, optimizer, 0)
    kinds = {optimizer.state[view]["state1"].dtype for view in views.values()}
    assert kinds == {torch.uint8}


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"PHI3-U068 .*\[quantization\]"):
        make_optimizer(replace(SPEC, optimizer="adamw_8bit"), [torch.zeros(1)])
