"""Where stores are: the same from every folder, and fit to be shown."""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from mlflow_phi3.tracking.sqlite import SCHEME

# Stores that MLflow knows by a word.
_NAMED = frozenset({"databricks", "databricks-uc", "uc"})


def absolute_uri(uri: str) -> str:
    """``sqlite:///mlflow.db`` and plain folders, made independent of the working directory."""
    if uri.startswith(SCHEME) and not uri.startswith(f"{SCHEME}/"):
        return SCHEME + str(Path(uri.removeprefix(SCHEME)).resolve())
    if "://" in uri or uri.startswith("file:") or uri in _NAMED:
        return uri
    return Path(uri).resolve().as_uri()


def hide_password(url: str) -> str:
    """The URL as it may be shown."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    if parts.password is None:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))
