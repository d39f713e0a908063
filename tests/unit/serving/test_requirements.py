"""What a logged model asks pip for brings all that answering imports."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from importlib.metadata import requires as required_by

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlflow_phi3.serving.package import requirements

LOADED = "import sys, mlflow_phi3.serving.pyfunc; print(*sys.modules)"


def imported(module):
    """Top names of the packages that a module imports when it is imported."""
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(name)):
                yield name.partition(".")[0]


def installed_with(names):
    """Distributions that pip brings with ``names``, without extras."""
    found, left = set(), [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            needed = map(Requirement, required_by(name) or ())
            plain = (r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""}))
            left += [canonicalize_name(requirement.name) for requirement in plain]
    return found


def test_a_serving_image_holds_all_that_is_imported_in_it():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    ours = [name for name in done.stdout.split() if name.startswith("mlflow_phi3.")]
    wanted = {package for module in ours for package in imported(module)}
    wanted -= {*sys.stdlib_module_names, "mlflow_phi3"}
    held = installed_with(requirement.partition("==")[0] for requirement in requirements())
    of_package = packages_distributions()
    assert wanted >= {"torch", "transformers", "pydantic"}
    missing = [p for p in wanted if not held & {canonicalize_name(d) for d in of_package[p]}]
    assert missing == []
