import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.adapter import WEIGHTS_FILE, with_adapter
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.merge import merge_adapter
from mlflow_phi3.modeling.parity import compare_logits
from tests.tiny_phi3 import conversation, example


@pytest.fixture
def examples(base):
    talks = [conversation("hold the light?", "until blue", 1), conversation("é🙂", "the", 2)]
    return [example(base, talk) for talk in talks]


def weights(base):
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def test_merged_float32_equals_base_plus_adapter(base, adapter, examples, tmp_path):
    folder = merge_adapter(base, adapter, tmp_path, dtype=torch.float32)
    merged = load_base(str(folder), precision="float32")
    with with_adapter(base, adapter) as tuned:
        parity = compare_logits(tuned, merged.model, examples)
    assert parity.differing == 0
    assert parity.max_rel < 1e-5
    assert parity.positions == sum(len(item.input_ids) for item in examples)


def test_the_adapter_matters(base, adapter, examples):
    with with_adapter(base, adapter) as tuned:
        inside = [tuned(torch.as_tensor(e.input_ids)[None].long()).logits for e in examples]
    outside = [base.model(torch.as_tensor(e.input_ids)[None].long()).logits for e in examples]
    assert all((a - b).abs().max() > 0.1 for a, b in zip(inside, outside, strict=True))


def test_base_is_left_untouched(base, adapter, tmp_path):
    before, names = weights(base), [name for name, _ in base.model.named_modules()]
    merge_adapter(base, adapter, tmp_path, dtype=torch.bfloat16)
    with with_adapter(base, adapter):
        pass
    assert [name for name, _ in base.model.named_modules()] == names
    assert not hasattr(base.model, "peft_config")
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())


def test_adapter_comes_off_when_the_block_fails(base, adapter):
    names = [name for name, _ in base.model.named_modules()]
    with pytest.raises(KeyError), with_adapter(base, adapter):
        raise KeyError
    assert [name for name, _ in base.model.named_modules()] == names


def test_bfloat16_is_rounded_once(base, adapter, tmp_path):
    exact = load_base(
        str(merge_adapter(base, adapter, tmp_path / "a", dtype=torch.float32)), precision="float32"
    )
    small = load_base(
        str(merge_adapter(base, adapter, tmp_path / "b", dtype=torch.bfloat16)),
        precision="bfloat16",
    )
    for name, value in small.model.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, exact.model.state_dict()[name].to(torch.bfloat16)), name


def test_folder_is_portable(base, adapter, tmp_path):
    folder = merge_adapter(base, adapter, tmp_path, dtype=torch.float32)
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pkl", ".pt", ".pickle"))]
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    end = base.tokenizer.convert_tokens_to_ids("<|end|>")
    assert ends == [base.tokenizer.eos_token_id, end]
    assert AutoTokenizer.from_pretrained(folder).chat_template == base.tokenizer.chat_template


def test_no_adapter_is_told(base, adapter, tmp_path):
    whole = (adapter / WEIGHTS_FILE).read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
    for name, content in (("cut", whole[:-1]), ("pointer", pointer)):
        shutil.copytree(adapter, tmp_path / name)
        (tmp_path / name / WEIGHTS_FILE).write_bytes(content)
        with pytest.raises(UsageError, match=r"PHI3-U030 .*: adapter_model.safetensors is not"):
            merge_adapter(base, tmp_path / name, tmp_path / "out", dtype=torch.float32)
    with pytest.raises(UsageError, match=r"PHI3-U030 .*: no adapter_config.json"):
        merge_adapter(base, tmp_path, tmp_path / "out", dtype=torch.float32)
