"""Whether an MLflow model carries all that it needs: a pure look at its ``MLmodel``."""

from collections.abc import Mapping
from typing import Any

from mlflow_phi3.errors import UsageError


def check_portable(model: Mapping[str, Any], *, where: str) -> None:
    """Refuse a model whose weights are elsewhere.

    Args:
        model: Content of its ``MLmodel`` file.
        where: How the model was named.

    Raises:
        UsageError: An adapter without its base, or no pyfunc flavor.
    """
    flavors = model.get("flavors") or {}
    transformers = flavors.get("transformers") or {}
    base = transformers.get("local_base_model_path") or transformers.get("source_model_name")
    pinned = ((flavors.get("python_function") or {}).get("config") or {}).get("base_model")
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
