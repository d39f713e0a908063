"""Adapters in PEFT's format, and checkpoints, on the disk."""

import math
import os
from dataclasses import replace
from functools import partial

import pytest
import torch
from peft import IA3Config, LoraConfig, VeraConfig

from mlflow_phi3.errors import TrainingError
from mlflow_phi3.training import checkpoint as disk
from mlflow_phi3.training.engine.adapters import find_linear, initial_weights, plan_layout
from mlflow_phi3.training.optimizer import make_optimizer
from mlflow_phi3.training.peft_files import load_adapter, load_lora_spec, save_adapter
from mlflow_phi3.training.spec import LoraSpec, TrialSpec

SPEC = TrialSpec(1e-3, epochs=3, per_device_batch_size=2, lora=LoraSpec(r=4))


def test_peft_round_trip(new_base, tmp_path):
    linear = find_linear(new_base().model)
    spec = LoraSpec(r=3, alpha=7.5, dropout=0.1, target_modules=("o_proj", "qkv_proj"), rslora=True)
    layout = plan_layout(linear, spec)
    weights = initial_weights(linear, layout, 5)
    save_adapter(tmp_path, layout, weights, "base")
    assert load_lora_spec(tmp_path) == spec
    assert torch.equal(load_adapter(tmp_path, layout), weights)
    other = plan_layout(linear, replace(spec, r=4))
    with pytest.raises(TrainingError, match="PHI3-T011"):
        load_adapter(tmp_path, other)
    with pytest.raises(TrainingError, match="expected None"):
        load_adapter(tmp_path, plan_layout(linear, replace(spec, target_modules=("o_proj",))))


LORA = partial(LoraConfig, r=4, target_modules=["o_proj"])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (LORA(alpha_pattern={"o_proj": 64}), "alpha_pattern"),
        (LORA(rank_pattern={"o_proj": 2}), "rank_pattern"),
        (LORA(init_lora_weights="pissa"), "init_lora_weights=pissa"),
        (LORA(init_lora_weights="olora"), "init_lora_weights=olora"),
        (LORA(init_lora_weights="pissa_niter_4"), "init_lora_weights=pissa_niter_4"),
        (LoraConfig(target_parameters=["experts.weight"]), "target_parameters"),
        (VeraConfig(target_modules=["o_proj"]), "peft_type=VERA"),
        (IA3Config(target_modules=["o_proj"], feedforward_modules=[]), "peft_type=IA3"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_an_adapter_that_means_something_else_is_not_read_as_plain_lora(tmp_path, config, told):
    config.save_pretrained(str(tmp_path))
    with pytest.raises(TrainingError, match=f"PHI3-T011 .*: {told} is not read"):
        load_lora_spec(tmp_path)


def test_another_start_of_plain_lora_is_read(tmp_path):
    LORA(init_lora_weights="gaussian").save_pretrained(str(tmp_path))
    assert load_lora_spec(tmp_path).r == 4


def new_checkpoint(new_base, folder, seed):
    linear = find_linear(new_base().model)
    layout = plan_layout(linear, SPEC.lora)
    weights = initial_weights(linear, layout, seed)
    optimizer = make_optimizer(SPEC, layout.views(weights).values())
    progress = disk.Progress(seed, 0, math.inf, math.inf, {"spec": [1, 2]})
    disk.save_checkpoint(
        folder, layout, weights, base_name="b", optimizer=optimizer, progress=progress
    )
    return layout, weights


def test_a_torn_save_leaves_a_whole_checkpoint(new_base, tmp_path, monkeypatch):
    last = tmp_path / "last"
    layout, weights = new_checkpoint(new_base, last, 1)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            new_checkpoint(new_base, last, 2)
    assert disk.load_progress(last).step == 1
    assert torch.equal(load_adapter(last, layout), weights)
    # Killed between the two renames: the complete new one counts.
    new_checkpoint(new_base, tmp_path / ".last.new", 3)
    last.rename(tmp_path / ".last.old")
    assert disk.load_progress(last).step == 3
    (tmp_path / ".last.new").mkdir()  # killed while it was written
    new_checkpoint(new_base, last, 4)
    assert disk.load_progress(last).step == 4


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_is_gone(
    new_base, tmp_path, monkeypatch
):
    last, synced = tmp_path / "last", []
    new_checkpoint(new_base, last, 1)

    def noted(handle):
        synced.append((os.fstat(handle).st_ino, (tmp_path / ".last.old").exists()))

    monkeypatch.setattr(os, "fsync", noted)
    new_checkpoint(new_base, last, 2)
    new = {path.stat().st_ino for path in (last, *last.iterdir())}
    assert {number for number, renamed in synced if not renamed} == new
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_a_copied_checkpoint_survives_its_source(new_base, tmp_path):
    layout, weights = new_checkpoint(new_base, tmp_path / "a/last", 1)
    disk.copy_checkpoint(tmp_path / "a/last", tmp_path / "b/last")
    new_checkpoint(new_base, tmp_path / "a/last", 2)
    assert torch.equal(load_adapter(tmp_path / "b/last", layout), weights)
    assert disk.load_progress(tmp_path / "b/last").step == 1


def test_an_earlier_trials_checkpoints_are_gone_or_it_is_told(tmp_path):
    for name in ("best", ".last.old", ".last.new"):  # the latter of a save that was killed
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").touch()
    disk.discard_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "last").touch()  # no folder
    with pytest.raises(NotADirectoryError):
        disk.discard_checkpoints(tmp_path)
