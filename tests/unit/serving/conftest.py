from pathlib import Path

import pytest

from mlflow_phi3.modeling.base import Base, load_base
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.merge import save_checkpoint
from mlflow_phi3.serving.local import Checkpoint, LocalModel, load_checkpoint
from tests.tiny_phi3 import write_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def base(folder) -> Base:
    return load_base(str(folder), precision="float32")


@pytest.fixture(scope="session")
def checkpoint(folder) -> Checkpoint:
    return load_checkpoint(folder, device="cpu")


@pytest.fixture(scope="session")
def local(checkpoint) -> LocalModel:
    return LocalModel(checkpoint, default_max_tokens=12)


@pytest.fixture(scope="session")
def classifier(folder, tmp_path_factory) -> tuple[Base, Path]:
    """A base with a head over three labels, and the checkpoint of it."""
    base = with_labels(load_base(str(folder), precision="float32"), ("fault", "order", "praise"))
    base.model.score.weight.normal_(std=1.0)
    target = tmp_path_factory.mktemp("classifier")
    save_checkpoint(base.model, base, target)
    return base, target
