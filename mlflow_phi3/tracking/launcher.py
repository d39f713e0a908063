"""The ``mlflow run`` process that started us, if one did."""

import os

import psutil


def find_launcher() -> psutil.Process | None:
    """The ``mlflow run`` command among our ancestors, or None when we run by ourselves."""
    if "MLFLOW_RUN_ID" not in os.environ:
        return None
    for ancestor in psutil.Process().parents():
        try:
            words = ancestor.cmdline()
        except psutil.Error:
            continue
        if "run" in words and any("mlflow" in word for word in words[:3]):
            return ancestor
    return None
