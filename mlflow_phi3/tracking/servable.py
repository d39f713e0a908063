"""What MLflow is told of a model that it can serve anywhere."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Servable:
    """What ``mlflow.pyfunc.log_model`` takes, by the names of its parameters; nothing is pickled.

    Args:
        python_model: The models-from-code file.
        artifacts: Name to local folder; the weights, copied into the model.
        code_paths: The package's own code, that travels with the model.
        pip_requirements: Pinned to what is installed here.
        model_config: Settings that may be overridden on loading.
        signature: For ``ModelSignature.from_dict``: ``inputs`` and ``outputs``.
        input_example: A request.
    """

    python_model: str
    artifacts: dict[str, str]
    code_paths: list[str]
    pip_requirements: list[str]
    model_config: dict[str, Any]
    signature: dict[str, str]
    input_example: dict[str, Any]
