"""The logged model: MLflow runs this file to make the pyfunc ("models from code"), so no pickle.

The package's code travels beside the weights, for processes that have never heard of it; see
docs/serving.md.
"""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlflow

_DISTRIBUTION, _PACKAGE = "mlflow-phi3", "mlflow_phi3"


def prefer_installed(code: Path) -> None:
    """Let an installed package of the same version win over the copy in ``code``.

    MLflow puts the copy first on the path, so that whatever a process imports of the package
    after loading a model would come from the model's folder, which may be a temporary one.
    """
    beside = [entry for entry in sys.path if Path(entry) == code]
    try:
        told = f'__version__ = "{version(_DISTRIBUTION)}"'
        same = told in (code / _PACKAGE / "__init__.py").read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError):
        return
    if beside and same:
        sys.path[:] = [*(entry for entry in sys.path if entry not in beside), *beside]


prefer_installed(Path(__file__).with_name("code"))
mlflow.models.set_model(importlib.import_module(f"{_PACKAGE}.serving.pyfunc").PhiModel())
