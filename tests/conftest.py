"""What every test stands on: no network, no telemetry, one MLflow store for all."""

import os
from pathlib import Path

import pytest

# Before any library reads them.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    GIT_PYTHON_REFRESH="quiet",
)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory):
    """A SQLite tracking store; making its tables takes seconds, so all tests share one."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store_uri, tmp_path, monkeypatch, request):
    """A tracker on an experiment of the test's own; artifacts go to the test's folder."""
    from mlflow import MlflowClient

    from mlflow_phi3.tracking.runs import open_tracker

    monkeypatch.chdir(tmp_path)
    name = f"{request.node.nodeid}"
    MlflowClient(store_uri).create_experiment(name, artifact_location=tmp_path.as_uri())
    return open_tracker(uri=store_uri, experiment=name)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and contracts that lies beside some checkouts."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name} beside the repository")
    return SHARED
