"""Where ``mlflow run`` enters: text to schema, surroundings, workflow, exit code."""

import importlib
import os
import sys
from collections.abc import Sequence

from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.errors import Interrupted, Phi3Error

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def run(word: str, arguments: Sequence[str]) -> int:
    """Run the workflow ``word`` with ``--name value`` arguments; the process's exit code.

    Nothing heavy is imported before the arguments are known to be good, and the environment is
    settled before a library can read it.
    """
    try:
        config = parse_arguments(WORDS[word], arguments)
        _settle(config.model_dump().get("model", "demo"))
        workflow = importlib.import_module(f"mlflow_phi3.workflows.{word}")
        signals = importlib.import_module("mlflow_phi3.tracking.signals")
        with signals.stoppable():
            workflow.run(config)
    except KeyboardInterrupt:
        return _tell(Interrupted("PHI3-T001", "stopped by Ctrl-C"))
    except Phi3Error as error:
        return _tell(error)
    return 0


def _settle(model: str) -> None:
    """Set what libraries read from the environment when they are imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # A hub id is "owner/name"; whatever else names a model lies on this machine.
    local = model.count("/") != 1 or os.path.isdir(model)  # noqa: PTH112 - text, and before pathlib is worth its import
    if local:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _tell(error: Phi3Error) -> int:
    print(error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)  # noqa: T201 - the last word belongs on the terminal
    return error.exit_code
