"""What every test stands on: no network, no telemetry, one MLflow store for all."""

import os

import pytest
from hypothesis import settings

from tests.shared import find_shared

# Before any library reads them.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    GIT_PYTHON_REFRESH="quiet",
)


# No example fails for the time that it takes on a busy machine.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory):
    """A SQLite tracking store; making its tables takes seconds, so all tests share one."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store_uri, tmp_path, monkeypatch, request):
    """A tracker on an experiment of the test's own; artifacts go to the test's folder."""
    from mlflow import MlflowClient

    from mlflow_phi3.tracking.tracker import open_tracker

    monkeypatch.chdir(tmp_path)
    name = f"{request.node.nodeid}"
    MlflowClient(store_uri).create_experiment(name, artifact_location=tmp_path.as_uri())
    return open_tracker(uri=store_uri, experiment=name)


@pytest.fixture
def check_published(subtests):
    """Hold bodies against Microsoft's types: a part of its own, which says where it is skipped."""

    def check(changes):
        from tests.contract import published

        with subtests.test("published types"):
            assert published.find_faults(changes, find_shared("azure-contract")) == []

    return check
