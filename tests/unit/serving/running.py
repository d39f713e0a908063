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
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_keep_alive=75))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        # No certificates: reading those of the system takes longer than an answer.
        self.http = httpx.Client(base_url=self.url, verify=False, timeout=60)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.http.close()
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()
        assert not self._thread.is_alive()
        assert not self.model.alive

    def post(self, body, path="/v1/chat/completions", **more):
        return self.http.post(path, json=body, **more)

    def measure(self, name):
        (found,) = self._find(name)
        return found

    def answered(self, status):
        return sum(self._find(f'phi3_requests_total{{status="{status}"}}'))

    def _find(self, name):
        found = self.http.get("/metrics").text
        return [float(n) for n in re.findall(rf"^{re.escape(name)} (.+)$", found, re.MULTILINE)]

    def wait_until_inside(self, count):
        deadline = time.monotonic() + 60
        while self.measure("phi3_requests_inside") != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait_until_empty(self):
        self.wait_until_inside(0)


def ask(content, **more):
    return {"messages": [{"role": "user", "content": content}]} | more


def expected(local, content, **more):
    return reply_to(local, ask(content, **more))


def reply_to(local, body):
    return local.answer(local.prepare(parse_request(body)))
