"""Clients of endpoints, shared by threads."""

import time
from concurrent.futures import ThreadPoolExecutor

from mlflow_phi3.deployment.callers import Callers


def test_threads_that_share_a_new_client_connect_once(monkeypatch):
    callers, made = Callers(lambda: None, "azure-foundry"), []

    class Client:
        def close(self):
            pass

    def connect(endpoint):
        made.append(endpoint)
        time.sleep(0.01)  # the others are here by then
        return Client()

    monkeypatch.setattr(callers, "_connect", connect)
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(callers.find, ["chat"] * 8))

    assert made == ["chat"]
    assert len(clients) == 1
