"""Who gets in, who waits, who leaves: the server under many clients, and its sockets."""

import json
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from unittest.mock import Mock

import pytest
import uvicorn

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.serving.server import listen, serve
from tests.unit.serving.running import Server, ask


@pytest.fixture
def _slow(checkpoint):
    """Generation that still goes on when somebody looks."""
    hook = checkpoint.model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    yield
    hook.remove()


def test_an_oversized_body_is_a_413(server):
    found = server.post(ask("x" * (server.config.max_body_bytes + 1)))
    assert found.status_code == 413


@pytest.mark.usefixtures("_slow")
def test_a_full_house_is_a_429_with_a_time(checkpoint, endless):
    with Server(checkpoint, max_waiting=1) as small:
        with small.http.stream(
            "POST",
            "/v1/chat/completions",
            json=ask(endless, max_tokens=220, n=16, stream=True),
        ) as held:
            lines = held.iter_lines()  # kept: httpx closes the response with it
            assert next(lines).startswith("data: ")
            refused = small.post(ask("x", max_tokens=1))
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
        small.wait_until_empty()
        assert small.post(ask("x", max_tokens=1)).status_code == 200


def test_those_whose_body_is_on_its_way_are_inside(checkpoint):
    body = json.dumps(ask("x", max_tokens=1)).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with Server(checkpoint, max_waiting=2) as small:
        address = small.url.removeprefix("http://").split(":")
        slow = [socket.create_connection(address) for _ in range(2)]
        for connection in slow:
            connection.sendall(head.encode() + body[:-1])
        small.wait_until_inside(2)
        assert small.post(ask("x", max_tokens=1)).status_code == 429
        slow[0].sendall(body[-1:])
        assert slow[0].recv(12) == b"HTTP/1.1 200"
        slow[1].close()  # in the midst of its body
        small.wait_until_empty()
        assert (small.answered(429), small.answered(200), small.answered(499)) == (1, 1, 1)
        slow[0].close()


def test_a_long_prompt_keeps_nobody_waiting(server, monkeypatch):
    prepare, asked = server.model.prepare, threading.Event()
    going_on = threading.Event()

    def slowly(request):
        asked.set()
        assert going_on.wait(60)
        return prepare(request)

    monkeypatch.setattr(server.model, "prepare", slowly)
    found = []
    client = threading.Thread(target=lambda: found.append(server.post(ask("x", max_tokens=1))))
    client.start()
    try:
        assert asked.wait(60)
        assert server.http.get("/health", timeout=20).status_code == 200
    finally:
        going_on.set()
        client.join(60)
    assert found[0].status_code == 200


def test_those_who_wait_for_a_turn_alone_keep_nobody_from_being_prepared(server, monkeypatch):
    answer, going_on = server.model._single.answer, threading.Event()

    def slowly(prompt, left):
        assert going_on.wait(60)
        return answer(prompt, left)

    monkeypatch.setattr(server.model._single, "answer", slowly)
    alone = ask("x", max_tokens=1, temperature=1, seed=1)
    clients = [threading.Thread(target=server.post, args=[alone]) for _ in range(40)]
    for client in clients:
        client.start()
    try:
        server.wait_until_inside(len(clients))
        assert server.post(ask("x", max_tokens=1)).status_code == 200
    finally:
        going_on.set()
        for client in clients:
            client.join(60)


@pytest.mark.parametrize("more", [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.usefixtures("_slow")
def test_a_client_that_leaves_stops_its_generation(server, endless, more, stream):
    left = server.answered(499)
    body = ask(endless, max_tokens=220, n=16, stream=stream, **more)
    connection = socket.create_connection(server.url.removeprefix("http://").split(":"))
    payload = json.dumps(body).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    server.wait_until_inside(1)
    connection.close()
    server.wait_until_empty()
    assert server.answered(499) == left + 1
    for batcher in server.model._batchers.values():
        processor = batcher._manager.batch_processor
        deadline = time.monotonic() + 10
        while processor.scheduler.active_requests or processor.scheduler.waiting_requests:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not len(batcher.deliveries)


def test_a_token_does_not_wait_for_the_last_ones_acknowledgement():
    with listen(ServeConfig(port=0)) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_program_tells_its_settings():
    command = [sys.executable, "-m", "mlflow_phi3.serving", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert all(f"\n  {name} (default " in told.stdout for name in ServeConfig.model_fields)


def test_a_server_whose_port_is_taken_says_so_and_ends(folder):
    with listen(ServeConfig(port=0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mlflow_phi3.serving", str(folder), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 4
    assert re.search(rf"PHI3-P045 port: .* port {port}: .* Fix: ", ended.stderr)


def test_a_client_that_stalls_holds_up_the_end_only_so_long(folder, monkeypatch):
    made, plain = [], uvicorn.Server
    monkeypatch.setattr(uvicorn, "Server", lambda settings: made.append(plain(settings)) or made[0])
    monkeypatch.setattr("mlflow_phi3.serving.server._GRACE_S", 1)
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    config = ServeConfig(port=0, serve_device="cpu")
    serving = threading.Thread(
        target=serve, args=(folder, config), kwargs={"told": told.put}, daemon=True
    )
    serving.start()
    host, port = told.get(timeout=60).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stalls:
        stalls.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        deadline = time.monotonic() + 60
        while not (made and made[0].server_state.tasks):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        made[0].should_exit = True
        serving.join(30)
        assert not serving.is_alive()


def test_no_thread_of_a_server_that_does_not_come_up_stays(folder):
    before = set(threading.enumerate())
    config = ServeConfig(port=0, serve_device="cpu")
    with pytest.raises(BrokenPipeError):
        serve(folder, config, told=Mock(side_effect=BrokenPipeError))
    stayed = set(threading.enumerate()) - before
    assert not [thread.name for thread in stayed if not thread.daemon]
