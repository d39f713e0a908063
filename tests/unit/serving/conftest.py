from pathlib import Path

import pytest

from mlflow_phi3.modeling.base import Base, load_base
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.merge import save_checkpoint
from mlflow_phi3.serving.local import Checkpoint, LocalModel, load_checkpoint
from tests.tiny_phi3 import write_checkpoint
from tests.unit.serving.running import Server, expected


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


@pytest.fixture(scope="module")
def server(checkpoint):
    with Server(checkpoint) as running:
        yield running


@pytest.fixture(scope="module")
def endless(local):
    """A question whose greedy answer goes on to the end of the context."""
    for question in (f"light {n}" for n in range(200)):
        if expected(local, question, max_tokens=220).answers[0].finish == "length":
            return question
    raise AssertionError
