"""The mission, as a person meets it: one command, and what the store holds afterwards."""

import contextlib
import json
import re
import signal
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from mlflow_phi3.processes import is_alive
from tests.shared import find_shared

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


@pytest.fixture
def client(project, monkeypatch):
    monkeypatch.chdir(project)  # a new store keeps artifacts where its maker stands
    return MlflowClient(f"sqlite:///{project}/mlflow.db")


@pytest.fixture
def alone(project, tmp_path, store_uri, monkeypatch):
    """Run a word in this process, in the project's folder, on an experiment of its own."""
    from mlflow_phi3.workflows import entry

    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    mlflow.set_tracking_uri(store_uri)
    experiment = MlflowClient(store_uri).create_experiment(
        tmp_path.name, artifact_location=(tmp_path / "artifacts").as_uri()
    )
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)

    def run(word, **values):
        code = entry.run(word, [f"--{name}={value}" for name, value in values.items()])
        return code, MlflowClient(store_uri).search_runs([experiment], max_results=1000)

    return run


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
def test_one_command_prepares_sweeps_evaluates_and_registers(start, client, project, tmp_path):
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(NO_NETWORK)

    # Fewer and shorter trials than the demo's own, at higher rates.
    values = ("n_trials=3", "epochs=2", "answers=8", "learning_rate=2e-4..4e-4")
    asked = [word for value in values for word in ("-P", value)]
    run = mlflow_run(start, *asked, PYTHONPATH=str(guard))
    told, _ = run.communicate(timeout=500)

    assert run.returncode == 0, told
    assert "demo model" in told.split("✓ prepare")[0]
    assert "mlflow deployments create --name chat -m models:/phi3-chat@champion" in told
    assert "Traceback" not in told
    assert "Warning" not in told

    runs = by_name(client.search_runs(["0"], max_results=1000))
    root = next(run for name, run in runs.items() if name.startswith("main-"))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {"prepare", "evaluate", "register", "trial-000", "trial-001", "trial-002"} <= set(runs)
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
def test_each_step_runs_alone_on_what_the_steps_before_it_left(alone):
    small = {"n_trials": 1, "epochs": 1, "batch_size_multiplier": 4, "learning_rate": "3e-3"}
    name = {"registered_model": "alone"}
    codes = [
        alone("prepare")[0],
        alone("sweep", **small)[0],
        alone("evaluate", answers=2)[0],
        alone("register", **name)[0],
        alone("train", epochs=1, batch_size_multiplier=4)[0],
        alone("register", **name)[0],
    ]
    _, runs = alone("prepare")

    assert codes == [0] * 6
    assert {run.info.status for run in runs} == {"FINISHED"}
    stages = {run.data.tags["phi3.stage"] for run in runs}
    assert stages >= {"prepare", "sweep", "evaluate", "register", "train", "trial"}
    # The second time it is no better than the champion, which it is itself.
    client = MlflowClient(mlflow.get_tracking_uri())
    assert int(client.get_model_version_by_alias("alone", "champion").version) == 1
    assert int(client.get_model_version_by_alias("alone", "challenger").version) == 2
    last = max(
        (run for run in runs if run.data.tags["phi3.stage"] == "register"),
        key=lambda run: run.info.start_time,
    )
    gates = json.loads(mlflow.artifacts.load_text(f"runs:/{last.info.run_id}/register/gate.json"))
    assert re.search(r"test loss [+-]0\.0000 against the champion", json.dumps(gates))
    trained = next(run for run in runs if run.data.tags["phi3.stage"] == "train")
    losses = client.download_artifacts(trained.info.run_id, "eval/losses_by_epoch.json")
    table = json.loads(Path(losses).read_text())
    assert table["columns"] == ["place", "epoch 1"]
    assert all(re.fullmatch(r".+:\d+", place) and loss > 0 for place, loss in table["data"])


@pytest.mark.timeout(600)
def test_the_same_seed_gives_the_same_winner_and_the_same_numbers(alone):
    small = {"n_trials": 2, "epochs": 1, "batch_size_multiplier": "2,4", "seed": 7}
    alone("sweep", **small)
    _, runs = alone("sweep", **small)

    trials = [run for run in runs if run.data.tags["phi3.stage"] == "trial"]
    numbers = {}
    for run in trials:
        kept = {k: v for k, v in run.data.metrics.items() if "tokens_per_second" not in k}
        numbers.setdefault(run.info.run_name, []).append((kept, run.data.params))
    assert sorted(numbers) == ["trial-000", "trial-001"]
    for first, second in numbers.values():
        assert first[1] == second[1]
        assert first[0] == pytest.approx(second[0], rel=1e-6)


@pytest.mark.timeout(600)
def test_other_data_and_the_real_tokenizer_on_a_random_phi3(alone, tmp_path):
    import torch
    from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(find_shared("data/phi3-mini-tokenizer"))
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
    )
    Phi3ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    samsum = find_shared("data/samsum-chat")

    code, runs = alone(
        "main",
        model=tmp_path / "model",
        train_data=samsum / "train.jsonl",
        validation_data=samsum / "validation.jsonl",
        n_trials=1,
        epochs=1,
        batch_size_multiplier=1,
        answers=1,
        max_new_tokens=4,
        precision="float32",
        registered_model="samsum",
    )

    assert code == 0
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_mistyped_parameter_stops_before_anything_runs(start, client):
    run = mlflow_run(start, "-P", "epoch=5")
    told, _ = run.communicate(timeout=120)

    assert run.returncode != 0
    assert "PHI3-U004 epoch: unknown parameter. Fix: did you mean 'epochs'?" in told
    assert {run.info.status for run in client.search_runs(["0"])} == {"FAILED"}


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ({"epochs": "abc"}, 2, "PHI3-U005 epochs: 'abc'"),
        ({"train_data": "nowhere.jsonl"}, 3, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(alone, capsys, values, code, message):
    ended, runs = alone("main", **values)

    assert ended == code
    assert message in capsys.readouterr().err
    assert {run.info.status for run in runs} <= {"FAILED"}


def test_bad_rows_are_all_named_and_no_run_is_left_open(alone, capsys):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "user", "content": "a"}]}
    rows = [good, bad, good, {"messages": []}]
    Path("bad.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    code, runs = alone("main", train_data="bad.jsonl")

    told = capsys.readouterr().err
    assert code == 3
    assert re.search(r"PHI3-D\d+ (at )?bad\.jsonl:2", told)
    assert re.search(r"PHI3-D\d+ (at )?bad\.jsonl:4", told)
    assert {run.info.status for run in runs} == {"FAILED"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_no_run_open_and_no_process_behind(start, client, order):
    run = mlflow_run(start, "-P", "n_trials=50", "-P", "epochs=20")

    def is_training():
        assert run.poll() is None, run.stdout.read()
        trials = [r for r in client.search_runs(["0"]) if r.data.tags.get("phi3.stage") == "trial"]
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
    ended = {r.data.tags["phi3.stage"]: r.info.status for r in client.search_runs(["0"])}
    assert ended.pop("prepare") == "FINISHED"  # it had ended before the order came
    assert set(ended.values()) <= {"FAILED", "KILLED"}, told
    assert "stopped" in told
