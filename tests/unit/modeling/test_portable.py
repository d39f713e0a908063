"""An adapter with its base pinned beside a merged checkpoint."""

import json

import pytest
import torch

from mlflow_phi3.deployment.mlmodel import check_portable
from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.kinds import BASE_FILE, is_pinned
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from mlflow_phi3.modeling.portable import load_portable, save_pinned
from mlflow_phi3.serving.local import load_checkpoint
from mlflow_phi3.serving.package import package_chat
from tests.tiny_phi3 import conversation, example, write_checkpoint


@pytest.fixture
def pinned(base, adapter, tmp_path):
    return save_pinned(base, adapter, tmp_path / "pinned", dtype=torch.float32)


def test_both_formats_are_the_model_that_was_trained(base, adapter, pinned, tmp_path):
    rows = [example(base, conversation("hold the light?", "until blue"))]
    merged = merge_adapter(base, adapter, tmp_path / "merged", dtype=torch.float32)
    assert is_pinned(pinned)
    assert not is_pinned(merged)
    for folder in (merged, pinned):
        loaded = load_portable(folder, precision="float32")
        with with_adapter(base, adapter) as tuned:
            assert compare_logits(tuned, loaded.model, rows).within(1e-5)
    served = load_checkpoint(pinned, device="cpu")
    with with_adapter(base, adapter) as tuned:
        assert compare_logits(tuned, served.model, rows).within(1e-5)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_an_adapter_in_bfloat16_is_the_merged_model_at_every_position(
    base, adapter, tmp_path, precision
):
    """Frequencies rounded to bfloat16 turn queries and keys by a wrong angle, far out."""
    small = load_base(base.name, precision="bfloat16")
    pinned = save_pinned(small, adapter, tmp_path / "pinned", dtype=torch.bfloat16)
    merged = merge_adapter(small, adapter, tmp_path / "merged", dtype=torch.bfloat16)
    one = load_portable(pinned, precision=precision).model
    other = load_portable(merged, precision="bfloat16" if precision == "auto" else precision).model
    frequencies = one.model.rotary_emb.inv_freq
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, base.model.model.rotary_emb.inv_freq)
    ids = torch.arange(base.model.config.max_position_embeddings)[None] % 50
    with torch.inference_mode():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_an_adapter_pinned_in_float32_is_read_in_the_precision_that_is_asked_for(pinned):
    asked = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    for precision, dtype in asked.items():
        assert load_portable(pinned, precision=precision).model.dtype == dtype


def test_a_checkpoint_that_names_its_format_as_it_was_named_before_is_read(base, adapter, tmp_path):
    folder = merge_adapter(base, adapter, tmp_path / "merged", dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    assert load_portable(folder).revision


def test_an_adapter_weighs_little(pinned, base):
    held = sum(file.stat().st_size for file in pinned.rglob("*"))
    whole = sum(weight.numel() * 4 for weight in base.model.parameters())
    assert held < whole / 2
    assert not (pinned / "model.safetensors").exists()


def test_another_base_is_refused(pinned):
    facts = json.loads((pinned / BASE_FILE).read_text())
    (pinned / BASE_FILE).write_text(json.dumps(facts | {"revision": "0" * 40}))
    with pytest.raises(PreflightError, match=r"PHI3-P042 .* trained on 000000000000"):
        load_portable(pinned)


@pytest.mark.parametrize("name", ["base", "models/base"])  # the second could be a hub's
def test_a_base_that_has_changed_in_its_folder_is_refused(adapter, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = write_checkpoint(tmp_path / name)
    pinned = save_pinned(load_base(name), adapter, tmp_path / "pinned", dtype=torch.float32)
    assert load_portable(pinned).revision
    write_checkpoint(folder, seed=1)
    with pytest.raises(PreflightError, match="PHI3-P042"):
        load_portable(pinned)


def test_an_endpoint_without_the_base_does_not_get_it(pinned, tmp_path):
    servable = package_chat(pinned, tmp_path / "code")
    flavors = {"python_function": {"config": servable.model_config}}
    assert [item for item in servable.pip_requirements if item.startswith("peft==")]
    with pytest.raises(UsageError, match="PHI3-U712"):
        check_portable({"flavors": flavors}, where="models:/m/1")
