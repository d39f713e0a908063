"""What MLflow loads: a chat model or a classifier, as the checkpoint says."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext

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

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - MLflow would take types for the schema of a list of inputs
        """Answer one request (a dict, or a frame of one row) or several (a frame of rows).

        Raises:
            MlflowException: A request is not one, or is refused: HTTP status 400; content safety
                gives no verdict: 503.
        """
        del context
        requests = [{**row, **(params or {})} for row in read_requests(model_input)]
        try:
            return self._model.answer(requests)
        except UsageError as error:
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error
        except AzureError as error:
            raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error


def read_requests(model_input: Any) -> Iterator[dict[str, Any]]:
    """Request bodies from whatever MLflow made of the input.

    A chat that passed through pandas (``mlflow deployments predict -I`` reads JSON so) has become
    a frame with one row per *message* and the scalars repeated: it is put together again.
    """
    if not isinstance(model_input, pd.DataFrame):
        yield from model_input if isinstance(model_input, list) else [model_input]
        return
    rows = [_plain(row) for row in model_input.to_dict(orient="records")]
    if rows and all(isinstance(row.get("messages"), dict) for row in rows):
        yield {**rows[0], "messages": [row["messages"] for row in rows]}
        return
    yield from rows


def _plain(value: Any) -> Any:
    """JSON's own types for pandas' and NumPy's; keys whose value is missing are left out."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not _missing(item)}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
