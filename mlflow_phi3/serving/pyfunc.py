"""What MLflow loads: a chat model or a classifier, as the checkpoint says."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext

from mlflow_phi3.azure.payload import to_plain
from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.modeling.hardware import choose_device
from mlflow_phi3.serving.chat import Chat
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.local import load_checkpoint

# A logged model's words for fields of ServeConfig.
_SETTINGS = {
    "device": "serve_device",
    "dtype": "serve_dtype",
    "default_max_tokens": "default_max_tokens",
}


class PhiModel(PythonModel):  # type: ignore[misc]  # mlflow's types are not followed
    """A portable checkpoint as MLflow's pyfunc."""

    # MLflow's own switch: the signature is given, so it need not ask for type hints.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that lies in the artifact ``checkpoint``.

        Raises:
            MlflowException: A setting cannot be meant: HTTP status 400.
        """
        given = context.model_config or {}
        settings = read_settings(given)
        checkpoint = load_checkpoint(
            Path(context.artifacts["checkpoint"]),
            device=settings.serve_device,
            dtype=settings.serve_dtype,
        )
        self._model = (
            Labeller(checkpoint)
            if checkpoint.labels
            else Chat(
                checkpoint,
                name=str(given.get("model_name", "phi")),
                default_max_tokens=settings.default_max_tokens,
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


def read_settings(given: Mapping[str, Any]) -> ServeConfig:
    """What a model's ``model_config`` says of how it is served.

    Raises:
        MlflowException: A value cannot be meant: HTTP status 400.
    """
    named = {_SETTINGS[name]: value for name, value in given.items() if name in _SETTINGS}
    try:
        settings = parse_values(ServeConfig, named)
        choose_device(settings.serve_device, where="serve_device")
    except UsageError as error:
        told = UsageError(
            error.code,
            error.problem,
            where=f"model_config.{error.where.removeprefix('serve_')}",
            fix=error.fix,
        )
        raise MlflowException(str(told), error_code=BAD_REQUEST) from error
    return settings


def read_requests(model_input: Any) -> list[dict[str, Any]]:
    """Request bodies from whatever MLflow made of the input."""
    if isinstance(model_input, pd.DataFrame):
        model_input = model_input.to_dict(orient="records")
    rows = model_input if isinstance(model_input, list) else [model_input]
    return [to_plain(row) for row in rows]
