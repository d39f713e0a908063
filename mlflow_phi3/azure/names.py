"""Names as Azure has them; those that it accepts are checked before the call: the SDK does not."""

import re

from mlflow_phi3.errors import UsageError

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]")


def check_name(name: str, what: str) -> str:
    """Return an endpoint's or deployment's name when Azure would accept it.

    Raises:
        UsageError: It would not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "PHI3-U717",
            f"{name!r} is not a name of 3 to 32 letters, digits and dashes "
            "that begins with a letter and ends with a letter or digit",
            where=what,
            fix=f"for example {acceptable(name)!r}",
        )
    return name


def region_name(told: str) -> str:
    """Return a region's name as APIs have it: ``eastus2`` for ``East US 2``."""
    return told.replace(" ", "").lower()


def endpoint_for(model: str) -> str:
    """Return a name for the endpoint of a registered model: ``chat`` for ``phi3-chat``."""
    return acceptable(model.removeprefix("phi3-"))


def acceptable(name: str) -> str:
    """Return the nearest acceptable name."""
    clean = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:32].rstrip("-").lower()
    if not clean or not clean[0].isalpha():
        clean = f"phi-{clean}"[:32].rstrip("-")
    return clean if len(clean) >= 3 else f"{clean}-endpoint"
