"""A deployed model is asked, and what it is asked is watched."""

import json
import os

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from mlflow_phi3.azure.payload import to_request
from mlflow_phi3.azure.permissions import SEE, STEPS
from mlflow_phi3.cli.monitor import app as monitor
from mlflow_phi3.cli.try_ import app as try_
from mlflow_phi3.errors import DataError, GateError, UsageError

LOCAL = ["-t", "azure-foundry:/local"]


@pytest.fixture(scope="module")
def served(emulator, models, tmp_path_factory):
    """A managed deployment that collects data."""
    from mlflow_phi3.plugins.deployments import AzureFoundryClient

    home = "MLFLOW_PHI3_EMULATOR_HOME"
    before = os.environ.get(home)
    os.environ[home] = str(emulator.settings.home)
    client = AzureFoundryClient("azure-foundry:/local")
    client.create_deployment("watched", models["one"], config={"collect_data": "true"})
    yield client
    client.delete_deployment("watched")
    os.environ.pop(home) if before is None else os.environ.update({home: before})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def parsed(told):
    """What was printed for machines; MLflow's own lines come before it."""
    return json.loads(told.output[told.output.index("{\n") :])


def rows(path, prompts):
    turns = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": "Sure, it is so."}]
        for prompt in prompts
    ]
    path.write_text("\n".join(json.dumps({"messages": one}) for one in turns))
    return str(path)


def test_the_collector_is_asked_for(served, emulator):
    token = {"Authorization": f"Bearer {emulator.token()}"}
    from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE

    place = (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/"
        f"Microsoft.MachineLearningServices/workspaces/{WORKSPACE}/onlineEndpoints/watched"
    )
    query = {"api-version": "2023-04-01-preview"}
    answer = emulator.http.get(f"{place}/deployments", headers=token, params=query)
    found = answer.json()["value"]
    collections = found[0]["properties"]["dataCollector"]["collections"]
    assert {n: c["dataCollectionMode"].lower() for n, c in collections.items()} == {
        "request": "enabled",
        "response": "enabled",
    }


def test_a_log_that_cannot_be_written_costs_no_answer(served, tmp_path):
    words = ["watched", "--question", "hello", "--log", str(tmp_path), *LOCAL]
    told = CliRunner().invoke(try_, words)
    assert isinstance(told.exception, DataError)
    assert str(told.exception).startswith(f"PHI3-D094 {tmp_path}: cannot be written")
    assert "one: hello" in told.output


def test_golden_queries_and_samples_that_work(served, emulator, tmp_path, run_printed):
    golden = tmp_path / "golden.jsonl"
    ask = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
    golden.write_text(json.dumps({**ask, "contains": ["hello"]}))
    told = CliRunner().invoke(try_, ["watched", "--golden", str(golden), "--json", *LOCAL])
    assert told.exit_code == 0, told.exception
    found = parsed(told)
    assert [one["answer"] for one in found["answers"]] == ["one: hello"]
    assert found["answers"][0]["latency_s"] > 0
    assert json.dumps(to_request(ask)) in found["samples"]["curl"]
    shown = CliRunner().invoke(try_, ["watched", "--question", "hello", *LOCAL]).output
    assert run_printed(shown).count("one: hello") == 2
    golden.write_text(json.dumps({**ask, "contains": ["blue"]}))
    told = CliRunner().invoke(try_, ["watched", "--golden", str(golden), *LOCAL])
    assert isinstance(told.exception, GateError)
    assert "lacks 'blue'" in str(told.exception)


def test_a_classifier_is_asked_about_a_text(served, models, run_printed):
    served.create_deployment("sorter", models["labels"])
    try:
        told = CliRunner().invoke(try_, ["sorter", "--text", "it broke", *LOCAL])
        assert told.exit_code == 0, told.exception
        assert "defect" in told.output
        assert run_printed(told.output).count("defect") == 2
    finally:
        served.delete_deployment("sorter")


def test_a_window_in_figures_and_a_limit(served, emulator, store, tmp_path):
    trained = [f"how do I turn lamp number {n} on at night" for n in range(60)]
    data = rows(tmp_path / "train.jsonl", trained)
    for number in range(24):
        ask = {"messages": [{"role": "user", "content": f"कृपया दिवा {number} चालू करा मला नाही"}]}
        served.predict("watched", ask)
    arguments = ["watched", "--train-data", data, "--usd-per-hour", "2", *LOCAL]
    emulator.http.delete("/emulator/journal")
    emulator.allow(SEE, *STEPS["monitor"])
    told = CliRunner().invoke(monitor, [*arguments, "--json"])
    assert told.exit_code == 0, told.exception
    managed = {action.lower() for action in STEPS["monitor"] if "serverless" not in action}
    assert managed <= emulator.needed()
    found = parsed(told)
    traffic = found["traffic"]
    assert traffic["requests"] >= 24
    assert (traffic["error_rate"], traffic["cost_usd"]) == (0, 48)
    assert traffic["latency_p95_ms"] >= traffic["latency_p50_ms"] > 0
    drift = {one["name"]: one for one in found["drift"]}
    assert found["prompts"] >= 24
    assert drift["language"]["reading"] == drift["vocabulary"]["reading"] == "moved"
    run = MlflowClient().get_run(found["run_id"])
    assert run.data.metrics["monitor/requests"] == traffic["requests"]
    assert run.data.tags["phi3.limits"] == "kept"
    told = CliRunner().invoke(
        monitor, [*arguments, "--limit", "drift/language=0.2", "--limit", "monitor/error_rate=1"]
    )
    assert isinstance(told.exception, GateError)
    assert told.exception.exit_code == 6
    assert "drift/language is" in str(told.exception)


def test_errors_are_counted(served, emulator, store):
    url = f"{emulator.running.url}/online/watched/score"
    for _ in range(5):
        assert emulator.http.post(url, json={}).status_code == 401
    told = CliRunner().invoke(monitor, ["watched", "--json", *LOCAL])
    found = parsed(told)
    assert found["traffic"]["error_rate"] > 0


def test_what_cannot_be_watched(served, store):
    for arguments, code in (
        (["nobody"], "PHI3-U767"),
        (["watched", "--deployment", "nobody"], "PHI3-U735"),
        (["watched", "--limit", "monitor/eror_rate=1"], "PHI3-U764"),
    ):
        told = CliRunner().invoke(monitor, [*arguments, *LOCAL])
        assert isinstance(told.exception, UsageError), told.output
        assert code in str(told.exception)
