"""Training on from an adapter."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.errors import UsageError
from mlflow_phi3.workflows.context import open_base, open_context
from mlflow_phi3.workflows.continued import find_start
from mlflow_phi3.workflows.sweep import load_winner
from mlflow_phi3.workflows.train import run

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Where is item {number} kept?"},
            {"role": "assistant", "content": f"Item {number} is kept on shelf {number % 3}."},
        ]
    }
    for number in range(24)
]


@pytest.fixture
def config(tracker, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracker.experiment_id)

    def make(**values):
        base = {"train_data": "rows.jsonl", "epochs": "1", "output": "json", "lora_r": "4"}
        return parse_values(TrainWord, {**base, "workspace": "work", **values})

    return make


def first_loss(tracker, run_id):
    return tracker.client.get_metric_history(run_id, "train/loss")[0].value


def test_a_run_or_a_version_of_it_is_trained_on(config, tracker):
    run(config(learning_rate="3e-3", epochs="2"))
    first = tracker.latest("train", where="").info.run_id
    assert [folder.name for folder in Path("work/trials").iterdir()] == [f"train-{first}"]
    client = MlflowClient(tracker.uri)
    client.create_registered_model("continued")
    source = "runs:/" + first
    version = client.create_model_version(
        "continued", source, run_id=first, tags={"phi3.trial_run": first}
    )
    with tracker.stage("in Azure", stage="train", tags={"azure.job_name": "job"}):
        pass
    for start in ("latest", f"models:/continued/{version.version}"):
        # Another rank is asked for: the adapter's own holds.
        run(config(learning_rate="1e-6", lora_r="16", continue_from=start))
        second = tracker.latest("train", where="", without="azure.job_name")
        assert second.info.run_id != first
        assert second.data.params["resolved.lora_r"] == "4"
        assert second.data.tags["phi3.continued_from"] == start
        assert first_loss(tracker, second.info.run_id) < 0.8 * first_loss(tracker, first)
    client.delete_registered_model("continued")


def test_a_folder_without_an_adapter_is_refused_before_a_run_is_made(config, tracker):
    with pytest.raises(UsageError, match=r"PHI3-U030 nothere: no adapter_config\.json"):
        run(config(continue_from="nothere"))
    assert not tracker.find({})
    assert not Path("work").exists()


def test_a_run_that_is_gone_is_told_by_the_parameter_that_led_to_it(config, tracker):
    context = open_context(config())
    base = open_base(config())
    client = MlflowClient(tracker.uri)
    client.create_registered_model("gone")
    tags = {"phi3.trial_run": "0" * 32, "phi3.winner_run": "0" * 32}
    version = client.create_model_version("gone", "runs:/" + "0" * 32, tags=tags)
    with pytest.raises(UsageError, match=r"PHI3-U021 continue_from: no run '0"):
        find_start(context, base, f"models:/gone/{version.version}")
    client.delete_registered_model("gone")

    unfinished = tracker.start("unfinished", stage="train")
    with pytest.raises(UsageError, match=r"PHI3-U023 continue_from: the run .*unfinished"):
        find_start(context, base, f"runs:/{unfinished.run_id}")

    with tracker.stage("sweep", stage="sweep", tags=tags) as sweep:
        pass
    with pytest.raises(UsageError, match=r"PHI3-U021 sweep_run: no run '0"):
        load_winner(context, sweep.run_id, where="sweep_run")


def test_what_is_no_adapter_of_this_base_is_refused(config, tracker, tmp_path):
    context = open_context(config())
    base = open_base(config())
    with pytest.raises(UsageError, match=r"adapter_config\.json"):
        find_start(context, base, str(tmp_path))
    other = tracker.start("other", stage="train", tags={"phi3.base_revision": "f" * 40})
    with pytest.raises(UsageError, match=r"PHI3-U769.*ffffffffffff"):
        find_start(context, base, f"runs:/{other.run_id}")
    rounded = {**base.tags, "phi3.base_quantization": "nf4"}
    other = tracker.start("rounded", stage="train", tags=rounded)
    with pytest.raises(UsageError, match=r"PHI3-U769.*quantization nf4.*quantization none"):
        find_start(context, base, f"runs:/{other.run_id}")
    with pytest.raises(UsageError, match="PHI3-U020 continue_from: no finished train run"):
        find_start(context, base, "latest")
    with pytest.raises(UsageError, match="PHI3-U770"):
        run(config(backend="foundry", continue_from="models:/chat@champion"))
