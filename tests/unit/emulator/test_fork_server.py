"""Real processes, forked from one that has imported what they need."""

import os
import subprocess
import sys
import time

import httpx
import pytest

from mlflow_phi3.emulator.endpoints.forking import Forked, ForkServer
from mlflow_phi3.emulator.process import free_port

APPLICATION = """
import os, sys

assert "mlflow_phi3" not in sys.modules
if "BROKEN" in os.environ:
    raise RuntimeError("no weights")


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    told = f"{os.environ['WHO']} {os.environ.get('SECRET')} {os.getcwd()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told})
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "the emulator's")
    made = ForkServer(["uvicorn"], log=tmp_path / "log", environment=os.environ, folder=tmp_path)
    yield made
    made.close()


@pytest.fixture
def start(server, tmp_path):
    def begin(who, **variables):
        folder = tmp_path / who
        folder.mkdir()
        (folder / "told.py").write_text(APPLICATION)
        port, log = free_port(), tmp_path / f"{who}.log"
        pid = server.start(
            log=str(log),
            folder=str(folder),
            port=port,
            application="told:app",
            environment={"WHO": who, **variables},
        )
        return Forked(pid, log), port, folder

    return begin


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def asked(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}", trust_env=False, verify=False).text
    except httpx.TransportError:
        return ""


def test_each_process_has_its_own_folder_environment_and_end(start):
    one, one_port, one_folder = start("one")
    two, two_port, two_folder = start("two")
    wait_for(lambda: asked(one_port) and asked(two_port))
    assert asked(one_port) == f"one None {one_folder}"
    assert asked(two_port) == f"two None {two_folder}"
    one.stop()
    assert not one.is_running()
    assert two.is_running()
    assert asked(two_port).startswith("two")


def test_one_that_cannot_start_ends_and_says_why(start):
    broken, _, _ = start("broken", BROKEN="yes")
    wait_for(lambda: not broken.is_running())
    assert "no weights" in broken.tail()


def test_they_end_with_the_fork_server(start, server):
    one, port, _ = start("one")
    wait_for(lambda: asked(port))
    server.close()
    assert not one.is_running()
    one.stop()
    assert server.start(log="x") is None


def test_a_fork_server_that_cannot_import_starts_nothing(tmp_path):
    empty = ForkServer(["no_such_module"], log=tmp_path / "log", environment={}, folder=tmp_path)
    assert empty.start(log="x") is None
    empty._process.wait(30)
    assert empty.start(log="x") is None
    assert "no_such_module" in empty.tail()
    empty.close()


def test_one_that_ended_is_not_waited_for_though_nobody_takes_note(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    Forked(ended.pid, tmp_path / "log").stop()
    ended.wait()
