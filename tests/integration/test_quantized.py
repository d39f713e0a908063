"""A base in four bits from end to end: what is trained, evaluated, registered and loaded is one."""

import json
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_phi3.workflows import entry
from tests.tiny_phi3 import write_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
def test_from_four_bits_to_a_registered_model(tmp_path, store_uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    mlflow.set_tracking_uri(store_uri)
    client = MlflowClient(store_uri)
    where = (tmp_path / "artifacts").as_uri()
    experiment = client.create_experiment(tmp_path.name, artifact_location=where)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"hold the button {number} times?"},
                {"role": "assistant", "content": f"until the light {number * 7} turns blue"},
            ]
        }
        for number in range(60)
    ]
    (tmp_path / "chats.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in chats))
    values = {
        "model": write_checkpoint(tmp_path / "model"),
        "train_data": "chats.jsonl",
        "clean_near_duplicates": "false",
        "quantization": "nf4",
        "precision": "float32",
        "learning_rate": "3e-3",
        "n_trials": 1,
        "epochs": 1,
        "batch_size_multiplier": 1,
        "answers": 2,
        "max_new_tokens": 4,
        "model_dtype": "float32",
        "registered_model": "merged",
    }

    assert entry.run("main", [f"--{name}={value}" for name, value in values.items()]) == 0

    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    sweep = next(run for name, run in runs.items() if name.startswith("sweep"))
    assert sweep.data.tags["phi3.base_quantization"] == "nf4"
    path = client.download_artifacts(runs["register"].info.run_id, "register/certificate.json")
    assert json.loads(Path(path).read_text())["holds"]
    question = {"messages": [{"role": "user", "content": "hold the button 3 times?"}]}
    asked = question | {"max_tokens": 8, "temperature": 0.0}
    merged = mlflow.pyfunc.load_model("models:/merged@champion").predict(asked)

    # The same winner as an adapter: its base is read in four bits again.
    pinned = {"registered_model": "pinned", "model_format": "adapter", "model_dtype": "float32"}
    assert entry.run("register", [f"--{name}={value}" for name, value in pinned.items()]) == 0
    again = mlflow.pyfunc.load_model("models:/pinned@champion").predict(asked)
    (one,), (other,) = merged["choices"], again["choices"]
    assert one["message"]["content"] == other["message"]["content"]
