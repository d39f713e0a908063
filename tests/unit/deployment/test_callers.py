"""Clients of endpoints, shared by threads."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_phi3.deployment.callers import Callers
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.errors import AzureError


class Client:
    closed = False

    def close(self):
        self.closed = True

    def ask(self, *_, **__):
        raise AzureError("PHI3-A712", "refused", status=401)


def test_threads_that_share_a_new_client_connect_once(monkeypatch):
    callers, made = Callers(lambda: None, "azure-foundry"), []

    def connect(endpoint):
        made.append(endpoint)
        time.sleep(0.01)  # the others are here by then
        return Client()

    monkeypatch.setattr(callers, "_connect", connect)
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(callers.find, ["chat"] * 8))

    assert made == ["chat"]
    assert len(clients) == 1


def test_a_serverless_endpoint_that_another_thread_has_forgotten_is_asked_as_one(monkeypatch):
    class Chat(Client):
        by_token = True

        def ask(self, body, *, path):
            return {"path": path, **body}

    def find(endpoint):
        callers.forget(endpoint)
        return Chat()

    callers = Callers(lambda: None, "azure-foundry")
    monkeypatch.setattr(callers, "find", find)
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    assert callers.predict(Names("chat"), chat) == {"path": "/v1/chat/completions", **chat}


def test_a_key_that_another_thread_has_fetched_meanwhile_is_kept(monkeypatch):
    callers, old, new = Callers(lambda: None, "azure-foundry"), Client(), Client()
    monkeypatch.setattr(callers, "_connect", lambda endpoint: old)
    asked = callers.find("chat")
    callers.forget("chat")
    monkeypatch.setattr(callers, "_connect", lambda endpoint: new)
    callers.find("chat")

    with pytest.raises(AzureError), callers._forgetting("chat", asked):
        asked.ask()
    assert callers.find("chat") is new
    assert not new.closed
    with pytest.raises(AzureError), callers._forgetting("chat", new):
        new.ask()
    assert new.closed
