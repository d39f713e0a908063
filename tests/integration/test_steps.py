"""The steps of the mission one by one, in this process, on a little data."""

import json
import re
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from tests.shared import find_shared


@pytest.fixture
def alone(tmp_path, store_uri, monkeypatch):
    """Run a word in this process, in a folder and on an experiment of its own."""
    from mlflow_phi3.workflows import entry

    monkeypatch.chdir(tmp_path)
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


@pytest.mark.timeout(600)
def test_each_step_runs_alone_on_what_the_steps_before_it_left(alone, few):
    small = {"train_data": few, "epochs": 1, "batch_size_multiplier": 4}
    version = {"registered_model": "alone", "certificate_tokens": 4}
    codes = [
        alone("prepare", train_data=few)[0],
        alone("sweep", **small, n_trials=1, learning_rate="3e-3")[0],
        alone("evaluate", answers=2, max_new_tokens=4)[0],
        alone("register", **version)[0],
        alone("train", **small)[0],
        alone("register", **version)[0],
    ]
    _, runs = alone("prepare", train_data=few)

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
def test_the_same_seed_gives_the_same_winner_and_the_same_numbers(alone, few):
    small = {
        "train_data": few,
        "n_trials": 2,
        "epochs": 1,
        "batch_size_multiplier": "2,4",
        "seed": 7,
    }
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
        certificate_tokens=4,
        precision="float32",
        registered_model="samsum",
    )

    assert code == 0
    assert {run.info.status for run in runs} == {"FINISHED"}


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
