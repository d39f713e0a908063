"""A checkpoint that cannot be read is told in one sentence, with the mend."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.modeling.base import load_base, load_tokenizer
from mlflow_phi3.modeling.demo import checkpoint_path
from mlflow_phi3.modeling.reading import reading


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _unknown_architecture(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "nonsense"}))


@pytest.mark.parametrize("spoil", [_empty, _without_weights, _cut_weights, _unknown_architecture])
def test_a_spoilt_folder_is_told_with_its_mend(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_path(), folder)
    spoil(folder)
    with pytest.raises(UsageError) as told:
        load_base(str(folder))
    assert told.value.code == "PHI3-U013"
    assert str(folder) in told.value.where
    assert "save_pretrained" in told.value.fix
    assert "\n" not in str(told.value)


def test_a_hub_model_without_the_network_is_told_with_its_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match=r"PHI3-U013 model nobody/never-made: .*network"):
        load_tokenizer("nobody/never-made")


def test_a_hub_that_is_away_is_no_wrong_name() -> None:
    away = LocalEntryNotFoundError("nothing in the cache")
    away.__cause__ = httpx.ConnectError("Connection refused")
    with (
        pytest.raises(PreflightError, match=r"PHI3-P092 model a/b: .*the network") as told,
        reading("a/b"),
    ):
        raise OSError("We couldn't connect to 'https://huggingface.co'.") from away
    assert told.value.exit_code == 4


def test_a_name_that_the_hub_does_not_know_is_a_wrong_name() -> None:
    request = httpx.Request("HEAD", "https://huggingface.co/a/b")
    unknown = RepositoryNotFoundError("404", response=httpx.Response(404, request=request))
    with pytest.raises(UsageError, match="PHI3-U013 model a/b"), reading("a/b"):
        raise OSError("a/b is no model") from unknown
