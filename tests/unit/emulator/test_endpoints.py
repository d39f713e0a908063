"""Names of deployments, which Azure reads without regard to case."""

from types import SimpleNamespace

import pytest

from mlflow_phi3.emulator.endpoints import rules
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.faults import Faults
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Store

ENDPOINT = "/subscriptions/s/workspaces/w/onlineEndpoints/chat"


@pytest.mark.parametrize("kind", ["traffic", "mirrorTraffic"])
def test_what_gets_requests_is_not_deleted_under_another_spelling(tmp_path, kind):
    store = Store(tmp_path / "s.sqlite")
    store.put(ENDPOINT, "endpoint", {"name": "chat", "properties": {kind: {"Blue": 20}}})
    blue = {"name": "blue", "properties": {"provisioningState": "Succeeded"}}
    store.put(f"{ENDPOINT}/deployments/blue", "deployment", blue)
    operations = Operations(store, Faults())
    endpoints = Endpoints(store, operations, SimpleNamespace(stop=None), base="")

    with pytest.raises(Refusal, match=f"BLUE has 20 % of {kind}"):
        endpoints.delete_deployment(f"{ENDPOINT}/deployments/BLUE")

    assert store.get(f"{ENDPOINT}/deployments/blue") == blue
    store.close()


def test_what_gets_requests_gets_no_copies_under_another_spelling():
    with pytest.raises(Refusal, match="not both"):
        rules.check_mirror({"blue": 10}, {"Blue": 100}, [{"name": "blue"}])
