"""What an MLflow model's ``MLmodel`` file says of how it can be served: a pure look at it."""

from collections.abc import Mapping
from typing import Any

from mlflow_phi3.errors import UsageError


def check_portable(mlmodel: Mapping[str, Any], *, where: str) -> None:
    """Refuse a model whose weights are elsewhere.

    Args:
        mlmodel: Content of its ``MLmodel`` file.
        where: How the model was named.

    Raises:
        UsageError: An adapter without its base, or no pyfunc flavor.
    """
    flavors = mlmodel.get("flavors") or {}
    transformers = flavors.get("transformers") or {}
    base = transformers.get("local_base_model_path") or transformers.get("source_model_name")
    pinned = _config(mlmodel).get("base_model")
    base = base or pinned
    if pinned or (transformers and not transformers.get("model_binary")):
        raise UsageError(
            "PHI3-U712",
            f"the model's weights are elsewhere (base {base or 'unknown'}): "
            "a deployment could not load it",
            where=where,
            fix="register with model_format=merged, and deploy that",
        )
    if "python_function" not in flavors:
        raise UsageError(
            "PHI3-U713",
            f"the model has no python_function flavor, only {', '.join(flavors) or 'none'}",
            where=where,
            fix="log it with mlflow.pyfunc or a flavor that MLflow can serve",
        )


def asks_safety(mlmodel: Mapping[str, Any]) -> bool:
    """Whether a model asks Content Safety: a chat does, which alone has a length of its answers."""
    return "default_max_tokens" in _config(mlmodel)


def _config(mlmodel: Mapping[str, Any]) -> Mapping[str, Any]:
    """What its pyfunc is loaded with."""
    flavor = (mlmodel.get("flavors") or {}).get("python_function") or {}
    return flavor.get("config") or {}
