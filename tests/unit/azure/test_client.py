import socket

import pytest

from mlflow_phi3.azure.client import _require_listener, open_account
from mlflow_phi3.azure.target import Target
from mlflow_phi3.errors import PreflightError


def test_an_emulator_that_has_ended_is_named_as_such(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.listen()
        _require_listener(f"https://localhost:{port}")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://localhost:{port}")
    with pytest.raises(PreflightError, match=r"PHI3-P710 .*mlflow-phi3 emulator start"):
        open_account(Target("s", "g", "p"))


@pytest.mark.parametrize("authority", ["login.microsoftonline.com", "https://login.example.test"])
def test_other_authorities_are_not_asked(authority, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", pytest.fail)
    _require_listener(authority)
