"""What every step of a workflow is given: the store, the screen, the folder."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from mlflow_phi3 import __version__
from mlflow_phi3.config.base import Config
from mlflow_phi3.config.context import ContextConfig
from mlflow_phi3.config.model import ModelConfig
from mlflow_phi3.config.words import WORDS
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.base import DEMO, Base, load_base
from mlflow_phi3.modeling.hardware import choose_device
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tracker import Tracker, open_tracker
from mlflow_phi3.tracking.uris import hide_password
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.task import shape_base

RESOLVED = "config/resolved.yaml"


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of a running workflow.

    Args:
        tracker: Where runs go.
        screen: How to speak.
        workspace: Folder of prepared data and checkpoints, absolute.
        given_run: The run that ``mlflow run`` made for us, or None.
    """

    tracker: Tracker
    screen: Screen
    workspace: Path
    given_run: str | None

    @contextmanager
    def root(self, word: str, config: Config) -> Iterator[Run]:
        """The outermost run of a workflow: the one we were given, or a new one."""
        name = f"{word}-{stamp()}"
        with self.tracker.stage(name, stage=word, run_id=self.given_run) as run:
            _log_config(run, word, config)
            yield run

    @contextmanager
    def child(self, word: str, config: Config, parent: Run, *, name: str = "") -> Iterator[Run]:
        """A run of one step, within that of the workflow it is a part of.

        Args:
            word: The step.
            config: The workflow's; the parameters that the step has as well are logged.
            parent: The workflow's run.
            name: Of the run; empty takes the word.
        """
        with self.tracker.stage(name or word, stage=word, parent=parent) as run:
            _log_config(run, word, config)
            yield run


def open_context(config: ContextConfig) -> Context:
    """Connect to the store and make the workspace; from here on only our own progress is shown."""
    disable_progress_bar()
    workspace = Path(config.workspace).resolve()
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PreflightError(
            "PHI3-P091",
            f"it cannot be made: {error.strerror}",
            where=f"workspace={config.workspace}",
            fix="set workspace to a folder that you may write",
        ) from error
    tracker = open_tracker()
    tracker.close_abandoned()
    return Context(tracker, Screen(config.output), workspace, os.environ.get("MLFLOW_RUN_ID"))


def greet(context: Context, config: ModelConfig) -> None:
    """Say what is being tuned, and that the demo is a demo."""
    context.screen.say(f"[bold]mlflow-phi3 {__version__}[/] tunes [bold]{escape(config.model)}[/]")
    if config.model == DEMO:
        context.screen.say(
            "This is the demo model: a small Phi-3 made for trying the whole way on any machine. "
            "For the real one:\n  "
            "mlflow run . -P model=microsoft/Phi-4-mini-instruct -P train_data=<your chats.jsonl>"
        )


def open_base(config: ModelConfig, data: PreparedData | None = None) -> Base:
    """Load the base model that a configuration names.

    Args:
        config: Which one, and where it computes.
        data: What it is to learn; decides whether its end is the vocabulary or a head over labels.
            None loads it as it is.

    Raises:
        UsageError: No such checkpoint, or one that cannot learn the task.
        DataError: The data has no labels to learn.
    """
    base = load_base(
        config.model,
        revision=config.model_revision or None,
        precision=config.precision,
        quantization=config.quantization,
        device=choose_device(config.device),
    )
    return base if data is None else shape_base(base, data)


def load_config(context: Context, run_id: str) -> Mapping[str, object]:
    """The values that a finished run of the store was started with."""
    path = context.tracker.get(run_id).download(RESOLVED, context.workspace)
    values: Mapping[str, object] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def stamp() -> str:
    """The time, as it stands in names of runs: ``20261123-101500``, UTC."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def _log_config(run: Run, word: str, config: Config) -> None:
    """Log what a word takes of a configuration, as it was understood, defaults included.

    :func:`mlflow_phi3.config.parse.parse_values` reads it back, but for the password of a storage.
    """
    values = config.model_dump(mode="json", include=set(WORDS[word].model_fields))
    if storage := values.get("storage"):
        values["storage"] = hide_password(storage)
    run.log_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), RESOLVED)
