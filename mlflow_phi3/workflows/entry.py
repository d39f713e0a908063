"""Where ``mlflow run`` enters: text to schema, surroundings, workflow, exit code."""

import itertools
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.data.hub import WEIGHT, is_hub_id
from mlflow_phi3.errors import Interrupted, Phi3Error, PreflightError
from mlflow_phi3.imports import import_large
from mlflow_phi3.processes import is_alive
from mlflow_phi3.tracking.launcher import find_launcher
from mlflow_phi3.tracking.signals import stoppable

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # One progress line is ours; a dozen of theirs would bury it.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Its standing advice to install git concerns nobody here.
    "GIT_PYTHON_REFRESH": "quiet",
}


def run(word: str, arguments: Sequence[str]) -> int:
    """Run the workflow ``word`` with ``--name value`` arguments; the process's exit code.

    Nothing heavy is imported before the arguments are known to be good, and the environment is
    settled before a library can read it.
    """
    launcher = find_launcher()
    try:
        with stoppable(launcher):
            if launcher is not None:
                # `mlflow run` starts us in the project's folder; paths mean where the person is.
                os.chdir(launcher.cwd())
            config = parse_arguments(WORDS[word], arguments)
            quieten_libraries(str(getattr(config, "model", "")), sources_of(config))
            import_large(f"mlflow_phi3.workflows.{word}").run(config)
    except (Phi3Error, Interrupted) as error:
        return _end_badly(error, arguments, launcher)
    return 0


def sources_of(config: Config) -> list[str]:
    """What ``train_data`` and its kin name; empty text where nothing is."""
    return [str(getattr(config, f"{split}_data", "")) for split in SPLITS]


def quieten_libraries(model: str, data: Sequence[str] = ()) -> None:
    """Set what libraries read from the environment when they are imported.

    Args:
        model: As ``model`` names it.
        data: Sources, as ``train_data`` and its kin name them.
    """
    # On a CPU it asks for the package `kernels` whenever it is imported, which PEFT always does.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # PEFT asks for what transformers has renamed (5.24); nobody who trains can mend that.
    warnings.filterwarnings(
        "ignore", r".*is_gradient_checkpointing.* is deprecated", category=FutureWarning
    )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # A hub id is "owner/name"; whatever else names a model lies on this machine.
    own_model = model.count("/") != 1 or Path(model).is_dir()
    sources = {WEIGHT.sub("", part.strip()) for named in data for part in named.split(",")}
    own_data = not any(map(is_hub_id, sources - {"demo"}))
    if own_model and own_data:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def tell(error: Phi3Error | Interrupted, arguments: Sequence[str]) -> None:
    """Print an error's message, and what was noted on it on its way up.

    Args:
        error: What ended the command.
        arguments: Of the command; where they ask for JSON lines, the standard output gets an event.
    """
    print(error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)  # noqa: T201 - the last word belongs on the terminal
    if _ask_for_json(arguments):
        facts = {name: getattr(error, name) for name in ("code", "where", "problem", "fix")}
        print(json.dumps({"event": "error", "text": str(error), **facts}), flush=True)  # noqa: T201 - as the events before it


def _ask_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON lines; it may be one that cannot be parsed."""
    words = [part for word in arguments for part in word.split("=", 1)]
    return "--json" in words or ("--output", "json") in itertools.pairwise(words)


def _end_badly(
    error: Phi3Error | Interrupted, arguments: Sequence[str], launcher: psutil.Process | None
) -> int:
    """Say why it ended, and close the run that a dead ``mlflow run`` left to nobody."""
    tell(error, arguments)
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id and not (launcher and is_alive(launcher.pid)):
        from mlflow_phi3.tracking.tracker import close_orphan

        with suppress(PreflightError):  # the first error is the one to show
            close_orphan(run_id, "KILLED" if isinstance(error, Interrupted) else "FAILED")
    return error.exit_code
