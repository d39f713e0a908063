"""A sweep in a process of its own, to be killed: ``drive.py TRACKING STORAGE FOLDER N_TRIALS``."""

import sys
import time
from pathlib import Path

import torch

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.run import run_sweep
from mlflow_phi3.tracking.runs import open_tracker
from tests.unit.sweep import tiny

SPACE = {
    "learning_rate": "3e-3..3e-2",
    "batch_size_multiplier": "1",
    "epochs": "1..3",
    "concurrency": "2",
    "pruner": "none",
    "study": "chaos",
}


def drive(tracking: str, storage: str, folder: Path, n_trials: int, *, step_s: float) -> None:
    """Run or continue the study; each step takes at least ``step_s``, so that it can be hit."""
    torch.set_num_threads(1)
    tracker = open_tracker(uri=tracking, experiment="chaos")
    known = tracker.find({"phi3.stage": "sweep"})
    parent = (
        tracker.resume(known[0].info.run_id) if known else tracker.start("sweep", stage="sweep")
    )
    config = {**SPACE, "n_trials": str(n_trials), "storage": storage}
    run_sweep(
        parse_values(SweepConfig, config),
        base=tiny.make_base(),
        train=tiny.count(32, 0),
        validation=tiny.count(8, 1),
        tracker=tracker,
        parent=parent,
        folder=folder,
        tags={},
        on_progress=lambda progress: time.sleep(step_s),
    )
    parent.end("FINISHED")


if __name__ == "__main__":
    tracking_uri, storage_url, folder_name, trials = sys.argv[1:]
    drive(tracking_uri, storage_url, Path(folder_name), int(trials), step_s=0.05)
