import asyncio
import datetime as dt
import fcntl
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509

from mlflow_phi3.emulator import guard
from mlflow_phi3.emulator.certificates import save_certificates
from mlflow_phi3.emulator.endpoints import rules
from mlflow_phi3.emulator.endpoints.scoring import to_mlflow
from mlflow_phi3.emulator.faults import Faults, Kind, answer
from mlflow_phi3.emulator.identity.state import Identity
from mlflow_phi3.emulator.lifecycle import find_emulator, start_emulator, stop_emulator
from mlflow_phi3.emulator.operation import OperationFailed, Operations
from mlflow_phi3.emulator.proxy import IDLE_S
from mlflow_phi3.emulator.router import Call, Refusal, Reply, Route, Router
from mlflow_phi3.emulator.settings import CACHE_VARIABLE, HOME_VARIABLE, settings_from
from mlflow_phi3.emulator.storage.azurite import install_azurite
from mlflow_phi3.emulator.store import Store
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.processes import is_alive


def call(method, path, body=None):
    return Call(method, path, {}, {}, {}, body, "https://localhost:1")


def route(table, method, path, body=None):
    found, names = Router(table).find(method, path)
    return found.handler(Call(method, path, names, {}, {}, body, "https://localhost:1"))


def test_paths_are_found_without_regard_to_case_and_give_their_names():
    router = Router([Route("GET", "/workspaces/{workspace}/models", lambda _call: Reply())])
    _, names = router.find("GET", "/WORKSPACES/Phi3/Models/")
    assert names == {"workspace": "Phi3"}
    with pytest.raises(Refusal) as refusal:
        router.find("PUT", "/workspaces/a/models")
    assert refusal.value.status == 405
    with pytest.raises(Refusal) as refusal:
        router.find("GET", "/workspaces/a/b/models")
    assert refusal.value.status == 404


def test_the_store_ignores_case_keeps_order_and_deletes_what_is_beneath(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put("/a/Endpoint/x", "endpoint", {"n": 1})
    store.put("/a/Endpoint/x/deployments/b", "deployment", {"n": 2})
    store.put("/a/Endpoint/xy", "endpoint", {"n": 3})
    assert store.get("/A/endpoint/X") == {"n": 1}
    assert [r["n"] for r in store.beneath("/a", "endpoint")] == [1, 3]
    store.patch("/a/endpoint/x", state="Failed")
    assert store.get("/a/Endpoint/x")["properties"] == {"state": "Failed"}
    store.delete("/a/endpoint/x")
    assert [r["n"] for r in store.of_kind("deployment")] == []
    store.close()
    assert Store(tmp_path / "s.sqlite").get("/a/endpoint/xy") == {"n": 3}


def test_faults_hit_what_they_say_as_often_as_they_say():
    faults = Faults()
    table = faults.routes()
    wanted = {"kind": "status", "path": "listKeys", "method": "POST", "status": 429, "times": 2}
    route(table, "POST", "/emulator/faults", wanted)
    assert faults.take("GET", "/x/listKeys") is None
    assert faults.take("POST", "/x/other") is None
    reply = asyncio.run(answer(faults.take("POST", "/x/LISTKEYS")))
    assert (reply.status, reply.headers["retry-after-ms"]) == (429, "50")
    assert faults.take("POST", "/x/listKeys") is not None
    assert faults.take("POST", "/x/listKeys") is None
    for wrong in (
        {"kind": "nonsense"},
        {},
        {"kind": "drop", "path": "("},
        {"kind": "drop", "x": 1},
        {"kind": "drop", "times": "often"},
    ):
        with pytest.raises(Refusal):
            route(table, "POST", "/emulator/faults", wrong)


def finished(operations, name):
    path = f"/subscriptions/s/providers/Microsoft.MachineLearningServices/locations/l/{{}}/{name}"
    for _ in range(1500):
        reply = route(operations.routes(), "GET", path.format("mfeOperationsStatus"))
        if reply.body["status"] != "InProgress":
            return reply.body, path.format("mfeOperationResults")
        time.sleep(0.02)
    raise AssertionError("never ended")


def test_operations_end_as_their_work_does(tmp_path):
    store = Store(tmp_path / "s")
    store.put("/r", "thing", {})
    operations = Operations(store, Faults())

    def fails():
        raise OperationFailed("ResourceNotReady", "no weights")

    body, results = finished(operations, operations.begin("/r", lambda: None))
    assert (body["status"], store.get("/r")) == ("Succeeded", {})
    assert route(operations.routes(), "GET", results).status == 204
    body, results = finished(operations, operations.begin("/r", fails))
    assert body["error"] == {"code": "ResourceNotReady", "message": "no weights"}
    assert store.get("/r")["properties"] == {"provisioningState": "Failed"}
    with pytest.raises(Refusal, match="no weights"):
        route(operations.routes(), "GET", results)


def test_answers_tell_pollers_where_to_ask(tmp_path):
    store = Store(tmp_path / "s")
    names = {"subscription": "s", "group": "g", "workspace": "w"}
    asked = Call("PUT", "/e", names, {"api-version": "v"}, {}, None, "https://localhost:1")
    store.put(asked.workspace_id, "workspace", {"location": "eastus2"})
    operations = Operations(store, Faults())
    begun = operations.begun(asked, {"name": "e"}, True, "oe:1")
    place = "/subscriptions/s/providers/Microsoft.MachineLearningServices/locations/eastus2"
    assert (begun.status, begun.body) == (201, {"name": "e"})
    assert begun.headers == {
        "x-ms-async-operation-timeout": "PT30M",
        "retry-after-ms": "200",
        "Azure-AsyncOperation": f"https://localhost:1{place}/mfeOperationsStatus/oe:1?api-version=v",
        "Location": "https://localhost:1/e",
    }
    assert operations.begun(asked, {}, False, "oe:1").status == 200
    accepted = operations.accepted(asked, "oe:1")
    where = f"https://localhost:1{place}/mfeOperationResults/oe:1?api-version=v"
    assert (accepted.status, accepted.body, accepted.headers["Location"]) == (202, None, where)
    assert operations.accepted(asked, None) == Reply(status=204)


def test_an_operation_that_a_restart_cut_off_has_failed(tmp_path):
    faults = Faults()
    table = faults.routes()
    route(table, "POST", "/emulator/faults", {"kind": Kind.HANG_OPERATION, "path": "/r"})
    before = Operations(Store(tmp_path / "s"), faults)
    name = before.begin("/r", lambda: None)
    before.stop()
    after = Operations(Store(tmp_path / "s"), Faults())
    assert finished(after, name)[0]["error"]["message"] == "The service was restarted."


@pytest.mark.timeout(20)
def test_nothing_hangs_by_a_fault_from_before_all_were_let_go():
    faults = Faults()
    for kind in (Kind.HANG_OPERATION, Kind.HOLD):
        route(faults.routes(), "POST", "/emulator/faults", {"kind": kind})
    faults.release()
    with pytest.raises(RuntimeError):
        faults.during_operation("/r")
    assert asyncio.run(answer(faults.take("GET", "/r"))) is None


def resource(name, state="Succeeded", **properties):
    return {"name": name, "properties": {"provisioningState": state, **properties}}


@pytest.mark.parametrize(
    ("traffic", "reason"),
    [
        ({"blue": 90}, "add up to 0 or 100"),
        ({"green": 100}, "does not exist"),
        ({"red": 100}, "state Failed"),
        ({"blue": 100.0}, "whole number"),
        ({"blue": 110}, "whole number"),
    ],
)
def test_traffic_that_the_service_refuses(traffic, reason):
    with pytest.raises(Refusal, match=reason):
        rules.check_traffic(traffic, [resource("blue"), resource("red", "Failed")])
    rules.check_traffic({"blue": 100, "red": 0}, [resource("blue"), resource("red", "Failed")])
    rules.check_traffic({}, [])


def test_deployments_that_the_service_refuses():
    good = {"endpointComputeType": "Managed", "instanceType": "Standard_DS3_v2", "model": "m"}
    body = {"properties": good, "sku": {"capacity": 1}}
    rules.check_deployment(body)
    for name, value in (
        ("endpointComputeType", "Kubernetes"),
        ("instanceType", "Standard_Nonsense"),
        ("model", None),
    ):
        with pytest.raises(Refusal):
            rules.check_deployment({"properties": {**good, name: value}})
    with pytest.raises(Refusal, match=r"Not enough quota .*100 of 100 left"):
        rules.check_quota({"properties": good, "sku": {"capacity": 26}}, [])
    for state in ("Creating", "Updating", "Deleting"):
        with pytest.raises(Refusal) as refusal:
            rules.check_idle(resource("blue", state))
        assert refusal.value.status == 409


def test_a_name_of_an_endpoint_is_given_once():
    mine, theirs = (f"/workspaces/{name}/onlineEndpoints/chat" for name in ("mine", "theirs"))
    there = [{"id": mine, "name": "Chat"}]
    rules.check_free(mine, there)  # a change of it
    rules.check_free(f"{theirs}2", there)
    with pytest.raises(Refusal, match="There is already an endpoint with this name"):
        rules.check_free(theirs, there)


def test_tokens_are_for_the_right_application_and_cannot_be_made_up():
    identity = Identity("t", "app", "secret", "k" * 32)
    token, life_s = identity.issue("app", "secret", "https://x/.default")
    assert identity.is_good(token)
    assert life_s == 3600
    assert identity.issue("app", "wrong", "s") is None
    assert identity.issue("other", "secret", "s") is None
    assert not identity.is_good(token[:-2] + "xx")
    assert not Identity("t", "app", "secret", "j" * 32).is_good(token)


def test_payloads_of_azure_become_mlflows():
    framed = {"columns": ["messages"], "index": [0], "data": [[[]]]}
    sent = json.dumps({"input_data": framed, "params": {"n": 1}}).encode()
    assert json.loads(to_mlflow(sent)) == {"dataframe_split": framed, "params": {"n": 1}}
    assert json.loads(to_mlflow(b'{"input_data": [1, 2]}')) == {"inputs": [1, 2]}
    for wrong in (b"{", b"[]", b'{"messages": []}'):
        with pytest.raises(Refusal) as refusal:
            to_mlflow(wrong)
        assert refusal.value.status == 400


def test_a_connection_is_given_up_before_the_server_behind_closes_it():
    closes = uvicorn.Config("mlflow.pyfunc.scoring_server.app:app").timeout_keep_alive
    assert closes > IDLE_S + 1


def test_certificates_are_made_once_and_the_key_is_for_its_owner_alone(tmp_path):
    save_certificates(tmp_path, dt.datetime.now(dt.UTC))
    first = (tmp_path / "server.pem").read_bytes()
    save_certificates(tmp_path, dt.datetime.now(dt.UTC))
    assert (tmp_path / "server.pem").read_bytes() == first
    assert (tmp_path / "server.key").stat().st_mode & 0o077 == 0
    server = x509.load_pem_x509_certificate(first)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    ssl.create_default_context(cafile=str(tmp_path / "bundle.pem"))


def test_settings_come_from_the_environment_and_secrets_stay(tmp_path):
    environment = {HOME_VARIABLE: str(tmp_path / "home"), CACHE_VARIABLE: str(tmp_path / "cache")}
    settings = settings_from(environment)
    settings.home.mkdir()
    assert settings.cache == tmp_path / "cache"
    secret = settings.environment(1)["AZURE_CLIENT_SECRET"]
    assert settings.environment(2)["AZURE_CLIENT_SECRET"] == secret
    # httpx, and with it OpenAI's client, looks at the second name only.
    known = settings.environment(1)
    assert known["SSL_CERT_FILE"] == known["REQUESTS_CA_BUNDLE"] == f"{settings.home}/bundle.pem"
    assert (settings.home / "client.secret").stat().st_mode & 0o077 == 0
    assert find_emulator(settings) is None
    assert stop_emulator(settings) is False


def test_a_stale_record_is_not_taken_for_a_running_emulator(tmp_path):
    settings = settings_from({HOME_VARIABLE: str(tmp_path)})
    record = {"pid": os.getpid(), "port": 1, "url": "https://localhost:1"}
    settings.record.write_text(json.dumps(record))
    assert find_emulator(settings) is None


def test_without_node_the_mend_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PreflightError, match=r"PHI3-P703: npm .*mlflow-phi3\[emulator\]"):
        install_azurite(tmp_path / "cache")


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ignores(pid, number):
    (mask,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def guarded(tmp_path):
    """Start a guard over a shell that has a child of its own; both are returned."""
    pids = tmp_path / "pids"
    command = f"sleep 300 & echo $$ $! > {pids}; wait"
    process = subprocess.Popen(
        [sys.executable, "-S", guard.__file__, "sh", "-c", command], stdin=subprocess.PIPE
    )
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    return process, [int(pid) for pid in pids.read_text().split()]


def test_when_the_pipe_closes_the_whole_group_ends(tmp_path):
    process, group = guarded(tmp_path)
    process.stdin.close()
    process.wait(20)
    wait_for(lambda: not any(map(is_alive, group)))


def test_a_guard_does_not_heed_signals_meant_for_its_owner_but_its_pipe(tmp_path):
    process, group = guarded(tmp_path)
    wait_for(lambda: all(ignores(process.pid, n) for n in (signal.SIGTERM, signal.SIGINT)))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.stdin.close()
    process.wait(20)
    wait_for(lambda: not any(map(is_alive, group)))


def test_two_threads_do_not_lose_each_others_writes(tmp_path):
    store = Store(tmp_path / "s")
    store.put("/a/b", "x", {"properties": {}})

    def work(name):
        for number in range(50):
            store.patch("/a/b", **{f"{name}{number}": number})

    threads = [threading.Thread(target=work, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.get("/a/b")["properties"]) == 150


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ({"red": 10, "green": 10}, "only one"),
        ({"red": 51}, "0 to 50"),
        ({"gone": 10}, "does not exist"),
        ({"blue": 10}, "not both"),
    ],
)
def test_copies_of_requests_that_the_service_refuses(mirror, reason):
    deployments = [resource(name) for name in ("blue", "red", "green")]
    with pytest.raises(Refusal, match=reason):
        rules.check_mirror(mirror, {"blue": 100}, deployments)
    rules.check_mirror({"red": 50, "green": 0}, {"blue": 100}, deployments)


def test_certificates_whose_time_is_over_are_made_anew(tmp_path):
    now = dt.datetime.now(dt.UTC)
    save_certificates(tmp_path, now - dt.timedelta(days=340))
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_certificates(tmp_path, now)
    new = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(new) == set(old)
    assert all(new[name] != old[name] for name in new)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")


def test_whoever_starts_one_at_the_same_time_waits_for_it(tmp_path):
    settings = settings_from({HOME_VARIABLE: str(tmp_path), CACHE_VARIABLE: str(tmp_path)})
    found = []
    with (tmp_path / "emulator.lock").open("w") as lock:  # as another that is still coming up
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: found.append(start_emulator(settings)))
        waiting.start()
        log = tmp_path / "emulator.log"
        while not log.exists() or "PHI3-P705" not in log.read_text():
            time.sleep(0.05)
        record = {"pid": os.getpid(), "port": 1, "url": "https://localhost:1"}
        half = tmp_path / "half"
        half.write_text(json.dumps(record))
        half.rename(settings.record)
        waiting.join(10)
    assert [one.port for one in found] == [1]
