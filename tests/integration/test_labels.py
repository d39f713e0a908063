"""Labels from end to end: texts and labels in, a registered classifier out."""

import csv
import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from mlflow_phi3.workflows import entry

SUBJECTS = {
    "order": (
        "where is my parcel",
        "I want to cancel my order",
        "the invoice shows the wrong address",
        "when will the console be delivered",
        "can I pay by bank transfer",
        "please refund the money for my order",
        "the parcel was sent to a wrong address",
        "I have not got an invoice yet",
        "the delivery is a week late",
        "how much is the delivery to an island",
        "I paid twice for one order",
    ),
    "repair": (
        "the console does not turn on",
        "the fan is very loud",
        "the controller does not charge",
        "a key of the controller is broken",
        "the screen stays black",
        "it gets hot and turns off",
        "the disc drive makes a noise",
        "the power button does not react",
        "the picture is broken and has lines",
        "the charging port is loose",
        "the battery is empty after ten minutes",
    ),
}
OPENINGS = ("Hello,", "Good evening.", "Hi there,", "Excuse me:", "Dear team,")
ENDINGS = ("Thank you!", "Please help me.", "What shall I do now?", "I am waiting for an answer.")


def write_tickets(path: Path) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for label, subjects in SUBJECTS.items():
            for number, subject in enumerate(subjects * 5):
                opening = OPENINGS[(number + number // 11) % len(OPENINGS)]
                ending = ENDINGS[(number // 11 + number) % len(ENDINGS)]
                # Half as many repairs as orders, so that there is something to balance.
                if label == "order" or number % 2:
                    table.writerow([f"{opening} {subject}. {ending}", label])
    return path


@pytest.fixture
def store(tmp_path, store_uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    mlflow.set_tracking_uri(store_uri)
    client = MlflowClient(store_uri)
    experiment = client.create_experiment(
        tmp_path.name, artifact_location=(tmp_path / "artifacts").as_uri()
    )
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    return client, experiment


@pytest.mark.timeout(600)
def test_texts_with_labels_become_a_registered_classifier(store, tmp_path):
    client, experiment = store
    tickets = write_tickets(tmp_path / "tickets.csv")
    values = {
        "task": "text-classification",
        "train_data": tickets,
        "clean_near_duplicates": "false",
        "test_split": 0.2,
        "n_trials": 2,
        "epochs": 3,
        "batch_size_multiplier": 1,
        "loss": "cross_entropy,focal",
        "class_weights": "balanced",
        "label_smoothing": 0.05,
        "learning_rate": "3e-3",
    }

    code = entry.run("main", [f"--{name}={value}" for name, value in values.items()])

    assert code == 0
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    evaluated = runs["evaluate"].data.metrics
    assert evaluated["test/accuracy"] > 0.9
    assert evaluated["test/f1_macro"] > 0.9
    assert evaluated["base/loss"] == pytest.approx(0.6931, abs=1e-3)  # two labels, no opinion
    trial = runs["trial-000"].data
    assert 0.9 < trial.metrics["eval/accuracy"] <= 1
    assert "eval/token_accuracy" not in trial.metrics
    assert runs["sweep"].data.metrics["eval/accuracy"] > 0.9
    weights = trial.params["class_weights"].split("+")
    assert float(weights[0]) < 1 < float(weights[1])

    confusion = read(client, runs["evaluate"], "eval/confusion.json")
    assert confusion["labels"] == ["order", "repair"]
    balance = read(client, runs["prepare"], "data/labels.json")
    assert balance["rows"]["test"]["order"] == sum(confusion["rows"][0])
    certificate = read(client, runs["register"], "register/certificate.json")
    assert certificate["holds"]
    assert [stage["name"] for stage in certificate["stages"]] == ["adapter", "merged", "pyfunc"]

    model = mlflow.pyfunc.load_model("models:/phi3-classifier@champion")
    frame = pd.DataFrame({"text": ["The controller is broken.", "Where is my invoice?"]})
    answers = model.predict(frame)
    assert [answer["label"] for answer in answers] == ["repair", "order"]
    assert all(0.5 < answer["score"] <= 1 for answer in answers)

    # The same winner as an adapter with its base pinned: other files, equal answers.
    pinned = {"registered_model": "pinned", "model_format": "adapter", "model_dtype": "float32"}
    assert entry.run("register", [f"--{name}={value}" for name, value in pinned.items()]) == 0
    again = mlflow.pyfunc.load_model("models:/pinned@champion").predict(frame)
    assert [answer["label"] for answer in again] == ["repair", "order"]
    expected = [answer["score"] for answer in answers]
    assert [answer["score"] for answer in again] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_weights": "balanced"}, "PHI3-U053"),
        ({"task": "text-classification", "class_weights": "1+2+3"}, "PHI3-U066"),
        ({"class_weights": "heavy"}, "PHI3-U005 class_weights: 'heavy'"),
    ],
)
def test_weights_that_cannot_be_meant_stop_it(store, tmp_path, capsys, values, message):
    values = {"train_data": write_tickets(tmp_path / "tickets.csv"), **values}
    if "task" not in values:
        del values["train_data"]

    code = entry.run("train", [f"--{name}={value}" for name, value in values.items()])

    assert code in {2, 3}
    assert message in capsys.readouterr().err


def read(client, run, name):
    return json.loads(Path(client.download_artifacts(run.info.run_id, name)).read_text())
