"""Clients of endpoints, shared by threads."""

import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from mlflow_phi3.azure.scoring import ScoringClient
from mlflow_phi3.deployment.callers import Callers
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.errors import AzureError


class Client:
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
    with pytest.raises(AzureError), callers._forgetting("chat", new):
        new.ask()
    monkeypatch.setattr(callers, "_connect", lambda endpoint: old)
    assert callers.find("chat") is old


def test_connections_are_closed_when_nobody_asks_by_them_any_more():
    trust = ssl.create_default_context()
    callers = Callers(lambda: None, "azure-foundry")
    callers._connect = partial(ScoringClient, key="key", trust=trust)
    asking, kept = callers.find("chat"), callers.find("other")._client
    connections = asking._client
    callers.forget("chat")
    assert not connections.is_closed
    del asking
    assert connections.is_closed
    assert not kept.is_closed
    del callers
    assert kept.is_closed
