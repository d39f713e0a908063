"""What a trial costs beside its training, in what can be counted: statements and transactions."""

import math
from collections import Counter

from sqlalchemy import event

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.drivers import beating
from mlflow_phi3.sweep.opening import begin_study
from mlflow_phi3.sweep.space import build_space

SPACE = {
    "learning_rate": "1e-4..1e-1",
    "lora_r": "4..64",
    "batch_size_multiplier": "1,2,4",
    "epochs": "2",
    "pruner": "none",
    "n_trials": "12",
}


def test_a_trial_takes_few_statements_and_transactions(
    tracker, parent, scripted, storage_url, tmp_path, monkeypatch
):
    # A slow machine would write between rounds once more.
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", math.inf)
    config = parse_values(SweepConfig, {**SPACE, "storage": storage_url})
    space = build_space(config, model="demo", seed=0)
    study = begin_study(config, space, tracker=tracker, parent=parent, facts={})
    conductor = Conductor(study, scripted, {}, lambda _: None, folder=tmp_path / "points")
    ledger = study.ledger
    counted = Counter()
    engines = {
        "study": ledger._storage._backend.engine,
        "runs": tracker.client._tracking_client.store.engine,
    }
    listeners = []
    for name, engine in engines.items():

        def statement(*_, name=name):
            counted[f"{name}: statements"] += 1

        def commit(*_, name=name):
            counted[f"{name}: transactions"] += 1

        listeners += [(engine, "before_cursor_execute", statement), (engine, "commit", commit)]
    with beating(ledger.study, ledger.driver):
        for listener in listeners:
            event.listen(*listener)
        try:
            conductor.conduct()
        finally:
            for listener in listeners:
                event.remove(*listener)
    assert len(ledger.trials()) == 12
    a_trial = {name: count / 12 for name, count in counted.items()}
    # Proposed, two losses, ended; and by the round: read twice, its runs noted.
    assert a_trial["study: statements"] <= 25
    assert a_trial["study: transactions"] <= 8
    # MLflow's own: created; parameters, points and tags at once; ended.
    assert a_trial["runs: statements"] <= 45
    assert a_trial["runs: transactions"] <= 7 + 5 / 12  # twice a command: who works in which run
