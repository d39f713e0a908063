"""A sweep in a process of its own, to be killed."""

import os
import time
from pathlib import Path

import optuna
import torch

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.run import run_sweep
from mlflow_phi3.tracking.tracker import open_tracker
from tests.unit.sweep import tiny
from tests.unit.sweep.servers import IMPATIENT, die_with_parent

SPACE = {
    "learning_rate": "3e-3..3e-2",
    "batch_size_multiplier": "1",
    "epochs": "1..3",
    "concurrency": "2",
    "pruner": "none",
    "study": "chaos",
}


def drive(tracking, storage, folder, n_trials, *, step_s=0.0, gate=None, log=None):
    """Run or continue the study.

    Each step takes at least ``step_s``, so that it can be hit; with a ``gate`` the last trials wait
    until that file exists.
    """
    die_with_parent()
    os.environ.update(IMPATIENT)
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tracker = open_tracker(uri=tracking, experiment="chaos")
    known = tracker.find({"phi3.stage": "sweep"})
    parent = (
        tracker.resume(known[0].info.run_id) if known else tracker.start("sweep", stage="sweep")
    )

    def pace(progress):
        print(f"{progress.trial} {progress.step}/{progress.total_steps}", flush=True)
        time.sleep(step_s)
        while gate is not None and progress.finished >= n_trials - 3 and not Path(gate).exists():
            time.sleep(0.2)
            print("waits 0/0", flush=True)  # a sign of life: it may be killed here too

    run_sweep(
        parse_values(SweepConfig, {**SPACE, "n_trials": str(n_trials), "storage": storage}),
        base=tiny.make_base(),
        train=tiny.count(32, 0),
        validation=tiny.count(8, 1),
        tracker=tracker,
        parent=parent,
        folder=Path(folder),
        tags={},
        on_progress=pace,
    )
    parent.end("FINISHED")
