"""What the project says of itself is what is in it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Pydantic pins its other half, which has no version that would be chosen beside it.
WITH_ANOTHER = {"pydantic_core": "pydantic"}


def imported():
    """Packages that the package imports, without its own and Python's."""
    found = set()
    for file in (ROOT / "mlflow_phi3").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"mlflow_phi3"}


def test_what_is_imported_is_a_dependency_or_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    told = [*project["dependencies"], *extras["ray"], *extras["quantization"]]
    declared = {re.match(r"[\w-]+", one)[0].lower() for one in told}
    from_where = packages_distributions()

    missing = [
        name
        for name in sorted(imported())
        if declared.isdisjoint(
            one.lower().replace("_", "-")
            for one in from_where.get(WITH_ANOTHER.get(name, name), [name])
        )
    ]
    assert not missing
