from pathlib import Path

import pytest

from mlflow_phi3.modeling.base import Base, load_base
from tests.tiny_phi3 import write_adapter, write_checkpoint


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Base:
    return load_base(str(write_checkpoint(tmp_path_factory.mktemp("tiny"))), precision="float32")


@pytest.fixture(scope="session")
def adapter(base, tmp_path_factory) -> Path:
    return write_adapter(base, tmp_path_factory.mktemp("adapter"))
