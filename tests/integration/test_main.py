"""The mission, as a person meets it: one command, and what the store holds afterwards."""

import json
import re
import signal
import time

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

SMALL = ("-P", "n_trials=2", "-P", "epochs=1", "-P", "answers=4")


@pytest.fixture
def client(project):
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


def mlflow_run(start, *words, **changes):
    return start("mlflow", "run", ".", "--env-manager", "local", *words, **changes)


def runs_by_name(client):
    return {run.info.run_name: run for run in client.search_runs(["0"], max_results=1000)}


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.timeout(600)
def test_one_command_prepares_sweeps_evaluates_and_registers(start, client, project):
    first = mlflow_run(start, "-P", "n_trials=3", "-P", "epochs=1", "-P", "answers=8")
    told, _ = first.communicate(timeout=500)

    assert first.returncode == 0, told
    assert "demo model" in told.split("prepare")[0]
    assert "mlflow deployments create -t azure-foundry" in told
    assert not list(project.glob("**/*.pkl"))

    runs = runs_by_name(client)
    root = next(run for name, run in runs.items() if name.startswith("main-"))
    steps = [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId")]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {"prepare", "evaluate", "register", "trial-000", "trial-001", "trial-002"} <= set(runs)
    assert root.data.metrics["test/perplexity"] < 0.7 * root.data.metrics["base/perplexity"]
    assert all(run.info.run_id != root.info.run_id for run in steps)

    trial = runs["trial-000"]
    assert trial.data.params["epochs"] == "1"
    assert float(trial.data.params["learning_rate"]) > 0
    steps = [m.step for m in client.get_metric_history(trial.info.run_id, "train/loss")]
    assert steps == sorted(set(steps))
    assert len(steps) > 10
    files = {file.path for file in client.list_artifacts(trial.info.run_id, "checkpoints/best")}
    assert "checkpoints/best/adapter_model.safetensors" in files

    inputs = runs["prepare"].inputs.dataset_inputs
    assert {entry.tags[0].value for entry in inputs} == {"train", "validation", "test"}

    champion = client.get_model_version_by_alias("phi3-chat", "champion")
    assert client.get_model_version_by_alias("phi3-chat", "challenger").version == champion.version
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    served = mlflow.pyfunc.load_model("models:/phi3-chat@champion")
    reply = served.predict({"messages": [{"role": "user", "content": "How do I turn it on?"}]})
    assert reply["choices"][0]["message"]["content"]


@pytest.mark.timeout(600)
def test_each_step_runs_alone_on_what_the_steps_before_it_left(start, client):
    for word, words in (
        ("prepare", ()),
        ("sweep", SMALL[:4]),
        ("evaluate", SMALL[4:]),
        ("register", ()),
        ("train", ("-P", "epochs=1")),
    ):
        step = mlflow_run(start, "-e", word, *words)
        told, _ = step.communicate(timeout=200)
        assert step.returncode == 0, told

    runs = client.search_runs(["0"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["phi3.stage"] for run in runs} >= {
        "prepare",
        "sweep",
        "evaluate",
        "register",
        "train",
    }
    assert client.get_model_version_by_alias("phi3-chat", "champion").version == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("epoch=5", "PHI3-U004 epoch: unknown parameter. Fix: did you mean 'epochs'?"),
        ("epochs=abc", "PHI3-U005 epochs: 'abc'"),
        ("train_data=nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_meant_stops_before_anything_runs(start, client, given, message):
    run = mlflow_run(start, "-P", given)
    told, _ = run.communicate(timeout=120)

    assert run.returncode != 0
    assert message in told
    assert "Traceback" not in told.split("PHI3-", 1)[0]
    assert {run.info.status for run in client.search_runs(["0"])} == {"FAILED"}


def test_bad_rows_are_all_named_and_no_run_is_left_open(start, client, project):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "user", "content": "a"}]}
    rows = [good, bad, good, {"messages": []}]
    (project / "bad.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    run = mlflow_run(start, "-P", "train_data=bad.jsonl")
    told, _ = run.communicate(timeout=120)

    assert run.returncode != 0
    assert re.search(r"PHI3-D\d+ .*bad\.jsonl:2", told)
    assert re.search(r"PHI3-D\d+ .*bad\.jsonl:4", told)
    assert {run.info.status for run in client.search_runs(["0"])} == {"FAILED"}


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_run_open_and_no_process_behind(start, client, order):
    run = mlflow_run(start, "-P", "n_trials=50", "-P", "epochs=20")
    wait_for(
        lambda: (
            [
                r
                for r in client.search_runs(["0"])
                if r.data.tags.get("phi3.stage") == "trial" and r.data.metrics
            ]
            if run.poll() is None
            else pytest.fail(run.stdout.read())
        )
    )
    started = descendants(run)

    if order is signal.SIGINT:  # a terminal sends Ctrl-C to everything in the foreground
        for process in started:
            process.send_signal(order)
    run.send_signal(order)
    told, _ = run.communicate(timeout=60)

    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in started), 30)
    assert {r.info.status for r in client.search_runs(["0"])} <= {"FAILED", "KILLED"}
    assert "stopped" in told
