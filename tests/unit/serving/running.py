"""A server over real sockets, and what it is asked."""

import re
import socket
import threading
import time

import httpx
import uvicorn

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.serving.concurrent import ConcurrentModel
from mlflow_phi3.serving.protocol import parse_request
from mlflow_phi3.serving.server import build_app

QUESTIONS = ["hold the light", "x", "the button?", "blue " * 9, "until the light turns", "é"]


class Server:
    """uvicorn in a thread."""

    def __init__(self, checkpoint, **limits):
        self.config = ServeConfig(default_max_tokens=12, cache_tokens=4096, **limits)
        self.model = ConcurrentModel(checkpoint, default_max_tokens=12, cache_tokens=4096)
        app = build_app(self.model, self.config, name="tiny")
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()
        assert not self._thread.is_alive()
        assert not self.model.alive

    def post(self, body, path="/v1/chat/completions", **more):
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def measure(self, name):
        (found,) = re.findall(rf"^{re.escape(name)} (.+)$", self.metrics(), re.MULTILINE)
        return float(found)

    def answered(self, status):
        name = f'phi3_requests_total{{status="{status}"}}'
        return self.measure(name) if name in self.metrics() else 0

    def metrics(self):
        return httpx.get(f"{self.url}/metrics").text

    def wait_until_empty(self):
        deadline = time.monotonic() + 20
        while self.measure("phi3_requests_inside"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def ask(content, **more):
    return {"messages": [{"role": "user", "content": content}]} | more


def expected(local, content, **more):
    return local.answer(parse_request(ask(content, **more)))
