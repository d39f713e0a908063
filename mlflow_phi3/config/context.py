"""Where a workflow keeps its work and how it speaks: shared by every word."""

from typing import Literal

from mlflow_phi3.config.base import Config


class ContextConfig(Config):
    """Surroundings of a run."""

    workspace: str = ".phi3"
    """Folder for prepared data (kept, found again by content) and checkpoints. What matters is
    logged to MLflow as well, so the folder may be deleted between runs."""

    output: Literal["auto", "plain", "json"] = "auto"
    """How progress is shown: `auto` draws one live line on a terminal and plain lines elsewhere;
    `plain` never draws; `json` writes one JSON object a line; if the command fails, `event` of the
    last one is `error`, with `code`, `where`, `problem` and `fix`."""
