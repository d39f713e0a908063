"""What MLflow loads: a chat model or a classifier, as the checkpoint says."""

import os
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext

from mlflow_phi3.azure.payload import to_plain
from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.serving.chat import Chat
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.local import ServedDtype, load_checkpoint


class Answering(Protocol):
    """One kind of model."""

    def answer(self, requests: list[dict[str, Any]]) -> Any:
        """Answer some requests.

        Raises:
            UsageError: One of them is not a request.
        """


class PhiModel(PythonModel):  # type: ignore[misc]  # mlflow's types are not followed
    """A portable checkpoint as MLflow's pyfunc."""

    # MLflow's own switch: the signature is given, so it need not ask for type hints.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that lies in the artifact ``checkpoint``."""
        settings = context.model_config or {}
        folder = Path(context.artifacts["checkpoint"])
        checkpoint = load_checkpoint(
            folder,
            device=str(settings.get("device", "auto")),
            dtype=cast("ServedDtype", settings.get("dtype", "auto")),
        )
        self._model: Answering = (
            Labeller(checkpoint)
            if checkpoint.labels
            else Chat(
                checkpoint,
                name=str(settings.get("model_name", "phi")),
                default_max_tokens=int(settings.get("default_max_tokens", 512)),
                safety=safety_from(os.environ),
            )
        )

    def predict(self, context, model_input):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take types for the schema of a list of inputs
        """Answer one request (a dict, or a frame of one row) or several (a frame of rows).

        Raises:
            MlflowException: A request is not one, or is refused: HTTP status 400; content safety
                gives no verdict: 503.
        """
        del context
        try:
            return self._model.answer(read_requests(model_input))
        except UsageError as error:
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error
        except AzureError as error:
            raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error


def read_requests(model_input: Any) -> list[dict[str, Any]]:
    """Request bodies from whatever MLflow made of the input."""
    if isinstance(model_input, pd.DataFrame):
        model_input = model_input.to_dict(orient="records")
    rows = model_input if isinstance(model_input, list) else [model_input]
    return [to_plain(row) for row in rows]
