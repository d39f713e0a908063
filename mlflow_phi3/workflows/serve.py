"""Serve a logged or registered model on this machine."""

from collections.abc import Callable

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.serving.package import CHECKPOINT
from mlflow_phi3.serving.server import serve
from mlflow_phi3.tracking.registry import locate_model


def serve_model(uri: str, config: ServeConfig, *, name: str, told: Callable[[str], None]) -> None:
    """Serve the model at ``uri`` until SIGINT or SIGTERM.

    Args:
        uri: MLflow's, such as ``models:/phi3-chat@champion``.
        config: Where, with what, within which limits.
        name: What the model is called in its answers.
        told: Called with a line for people when the server is about to answer.

    Raises:
        PreflightError: It is not a model of ours, or cannot be served as asked.
    """
    folder = locate_model(uri) / CHECKPOINT
    if not folder.is_dir():
        raise PreflightError(
            "PHI3-P046",
            f"the model has no {CHECKPOINT}: it was not registered here",
            where=uri,
            fix=f"mlflow models serve -m {uri}",
        )
    serve(folder, config, name=name, told=lambda url: told(f"{name} answers at {url}"))
