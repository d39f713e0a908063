"""What cannot be meant leaves no run behind."""

import os
import sys

import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.errors import DataError, Phi3Error
from mlflow_phi3.workflows import main, register, sweep, train

RUN = {"main": main.run, "sweep": sweep.run, "train": train.run, "register": register.run}


@pytest.mark.parametrize(
    ("word", "values", "code"),
    [
        ("main", {"sampler": "grid"}, "PHI3-U080 learning_rate"),
        ("sweep", {"sampler": "grid"}, "PHI3-U080 learning_rate"),
        ("sweep", {"target_modules": "q_proj,v_proj"}, "PHI3-U082 target_modules"),
        ("sweep", {"sampler_options": "n_startup=3"}, "PHI3-U084 sampler_options"),
        ("sweep", {"pruner_options": "n_warmups=3"}, "PHI3-U084 pruner_options"),
        ("sweep", {"sampler_options": "n_startup_trials=abc"}, "PHI3-U085 sampler_options"),
        ("sweep", {"device": "elsewhere"}, "PHI3-U051 device"),
        ("sweep", {"storage": "study.txt"}, "PHI3-U086 storage"),
        ("sweep", {"storage": "study.txt", "backend": "foundry"}, "PHI3-U086 storage"),
        ("main", {"storage": "sqlite://"}, "PHI3-U087 storage"),
        ("sweep", {"storage": "nonsense://here/a"}, "PHI3-U087 storage"),
        ("sweep", {"backend": "ray", "ray_address": "127.0.0.1:1"}, "PHI3-P085 .*127.0.0.1:1"),
        ("main", {"backend": "ray", "ray_address": "head"}, "PHI3-P085 .*host:port"),
        ("train", {"device": "elsewhere"}, "PHI3-U051 device"),
        ("train", {"epochs": "1,2"}, "PHI3-U081 epochs"),
        ("train", {"learning_rate": "1e-5..1e-4"}, "PHI3-U081 learning_rate"),
        ("train", {"target_modules": "q_proj"}, "PHI3-U082 target_modules"),
        ("main", {"registered_model": "a/b"}, "PHI3-U024 registered_model"),
        ("main", {"golden": "none.jsonl"}, "PHI3-D072 none.jsonl"),
        ("main", {"judge_model": "gpt"}, "PHI3-U072 judge_model"),
        ("register", {"registered_model": "a@b"}, "PHI3-U024 registered_model"),
        ("register", {"registered_model": ".."}, "PHI3-U024 registered_model"),
        ("register", {"golden": os.devnull}, "PHI3-D077"),
    ],
)
def test_it_is_refused_before_anything_runs(word, values, code, tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracker.experiment_id)

    with pytest.raises(Phi3Error, match=code):
        RUN[word](parse_values(WORDS[word], values))

    assert tracker.client.search_runs([tracker.experiment_id]) == []


@pytest.mark.parametrize(
    ("word", "values", "code"),
    [
        ("train", {"quantization": "nf4"}, "PHI3-U012 quantization"),
        ("main", {"quantization": "nf4"}, "PHI3-U012 quantization"),
        ("train", {"optimizer": "adamw_8bit"}, "PHI3-U068 optimizer"),
        ("sweep", {"optimizer": "adamw,adamw_8bit"}, "PHI3-U068 optimizer"),
        ("sweep", {"backend": "ray"}, "PHI3-P084 backend"),
        ("main", {"storage": "postgresql://me:secret@here/a"}, r"PHI3-P082 .*me:\*\*\*@here"),
    ],
)
def test_a_package_that_is_missing_is_told_before_anything_runs(
    word, values, code, tracker, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracker.experiment_id)
    for room in ("modeling.quantization", "training.optimizer"):
        monkeypatch.setattr(f"mlflow_phi3.{room}.find_spec", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for driver in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(Phi3Error, match=code):
        RUN[word](parse_values(WORDS[word], values))

    assert tracker.client.search_runs([tracker.experiment_id]) == []


def test_balanced_weights_wait_for_the_data():
    from mlflow_phi3.workflows.check import check_search, check_training

    check_training(parse_values(WORDS["train"], {"class_weights": "balanced"}))
    check_search(parse_values(WORDS["sweep"], {"class_weights": "none,balanced"}))


def test_data_without_test_rows_is_refused_before_the_training(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", tracker.experiment_id)

    with pytest.raises(DataError, match="PHI3-D078 test_data: no row is left to test on"):
        main.run(parse_values(WORDS["main"], {"test_split": 0}))

    stages = {
        run.data.tags["phi3.stage"] for run in tracker.client.search_runs([tracker.experiment_id])
    }
    assert stages == {"main", "prepare"}
