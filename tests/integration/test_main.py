"""The mission, as a person meets it: one command, and what the store holds afterwards."""

import contextlib
import signal
import time

import psutil
import pytest
from mlflow import MlflowClient

from mlflow_phi3.processes import is_alive

# Whatever process of the run loads this first refuses to speak to anything but this machine.
NO_NETWORK = """
import sys

def refuse(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
        if not host.startswith("127.") and host not in ("::1", "localhost"):
            raise ConnectionRefusedError(f"a test of local work reached out to {host}")
    if event == "socket.getaddrinfo" and args[0] not in (None, "", "localhost", "127.0.0.1"):
        raise ConnectionRefusedError(f"a test of local work looked up {args[0]}")

sys.addaudithook(refuse)
"""


# In a process of its own: the code that travels with a model takes the package's place there.
ASK = """
import mlflow
model = mlflow.pyfunc.load_model("models:/phi3-chat@champion")
reply = model.predict({"messages": [{"role": "user", "content": "How do I turn it on?"}]})
print("the answer is:", reply["choices"][0]["message"]["content"])
"""


def mlflow_run(start, *words, **changes):
    return start("mlflow", "run", ".", "--env-manager", "local", *words, **changes)


def by_name(runs):
    return {run.info.run_name: run for run in runs}


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")


@pytest.mark.timeout(600)
def test_one_command_prepares_sweeps_evaluates_and_registers(start, project, tmp_path):
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(NO_NETWORK)

    # Fewer and shorter trials than the demo's own, of one training, at higher rates.
    values = ("n_trials=2", "epochs=1,2", "answers=8", "learning_rate=2e-4..4e-4")
    asked = [word for value in values for word in ("-P", value)]
    run = mlflow_run(start, *asked, PYTHONPATH=str(guard))
    told, _ = run.communicate(timeout=500)

    assert run.returncode == 0, told
    assert "demo model" in told.split("✓ prepare")[0]
    assert "mlflow deployments create --name chat -m models:/phi3-chat@champion" in told
    assert "Traceback" not in told
    assert "Warning" not in told

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = by_name(client.search_runs(["0"], max_results=1000))
    root = next(run for name, run in runs.items() if name.startswith("main-"))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {"prepare", "evaluate", "register", "trial-000", "trial-001"} <= set(runs)
    assert root.data.metrics["test/perplexity"] < 0.7 * root.data.metrics["base/perplexity"]

    trial = runs["trial-000"]
    assert trial.data.params["epochs"] == "2"
    assert float(trial.data.params["learning_rate"]) > 0
    steps = [metric.step for metric in client.get_metric_history(trial.info.run_id, "train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(client.get_metric_history(trial.info.run_id, "eval/loss")) == 2
    files = {file.path for file in client.list_artifacts(trial.info.run_id, "checkpoints/best")}
    assert "checkpoints/best/adapter_model.safetensors" in files
    again = client.list_artifacts(trial.info.run_id, "azure")
    assert [file.path for file in again] == ["azure/job.yaml"]

    inputs = runs["prepare"].inputs.dataset_inputs
    assert {entry.tags[0].value for entry in inputs} == {"train", "validation", "test"}

    champion = client.get_model_version_by_alias("phi3-chat", "champion")
    challenger = client.get_model_version_by_alias("phi3-chat", "challenger")
    assert champion.version == challenger.version
    pickles = [
        file for kind in ("pkl", "bin", "pt", "pickle") for file in project.rglob(f"*.{kind}")
    ]
    assert pickles == []
    served, _ = start(
        "python", "-c", ASK, MLFLOW_TRACKING_URI=f"sqlite:///{project}/mlflow.db"
    ).communicate(timeout=120)
    assert "the answer is: " in served


@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_no_run_open_and_no_process_behind(
    start, store_uri, tmp_path, few, order
):
    client = MlflowClient(store_uri)
    artifacts = (tmp_path / "artifacts").as_uri()
    experiment = client.create_experiment(tmp_path.name, artifact_location=artifacts)
    values = ("n_trials=500", "epochs=50", f"train_data={few}")  # it is never done in time
    asked = [word for value in values for word in ("-P", value)]
    asked += ["--experiment-id", experiment]
    run = mlflow_run(start, *asked, MLFLOW_TRACKING_URI=store_uri)

    def runs():
        return client.search_runs([experiment])

    def is_training():
        assert run.poll() is None, run.stdout.read()
        trials = [one for one in runs() if one.data.tags.get("phi3.stage") == "trial"]
        return any(trial.data.metrics for trial in trials)

    wait_for(is_training, 300)
    started = psutil.Process(run.pid).children(recursive=True)
    if order is signal.SIGINT:  # a terminal sends Ctrl-C to everything in the foreground
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
                process.send_signal(order)
    run.send_signal(order)
    told, _ = run.communicate(timeout=150)

    wait_for(lambda: not any(is_alive(one.pid) for one in started), 30)
    ended = {r.data.tags["phi3.stage"]: r.info.status for r in runs()}
    assert ended.pop("prepare") == "FINISHED"  # it had ended before the order came
    assert set(ended.values()) <= {"FAILED", "KILLED"}, told
    assert "stopped" in told
