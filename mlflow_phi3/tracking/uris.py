"""Where stores are: the same from every folder, and fit to be shown."""

import re
from pathlib import Path

from mlflow_phi3.tracking.sqlite import SCHEME

# Stores that MLflow knows by a word.
_NAMED = frozenset({"databricks", "databricks-uc", "uc"})
_BEFORE_HOST = re.compile(r"^([\w+.-]+:?/{1,2}[^:/@\s]*:)\S*@")
_IN_QUERY = re.compile(r"([?&]\w*password=)[^&]*", re.IGNORECASE)


def absolute_uri(uri: str) -> str:
    """``sqlite:///mlflow.db`` and plain folders, made independent of the working directory."""
    if uri.startswith(SCHEME) and not uri.startswith(f"{SCHEME}/"):
        return SCHEME + str(Path(uri.removeprefix(SCHEME)).resolve())
    if "://" in uri or uri.startswith("file:") or uri in _NAMED:
        return uri
    return Path(uri).resolve().as_uri()


def hide_password(url: str) -> str:
    """The URL as it may be shown, though it be mistyped; what no URL is stays as it is.

    As SQLAlchemy reads it (``sqlalchemy/engine/url.py``), whose passwords may hold ``/``, ``?`` and
    ``#``; and up to the last ``@``, as a person may have left one in the password.
    """
    return _IN_QUERY.sub(r"\1***", _BEFORE_HOST.sub(r"\1***@", url))
