"""The logged model as MLflow sees it: logged, loaded, and served in another process."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3.errors import UsageError
from mlflow_phi3.serving.chat import Chat
from mlflow_phi3.serving.package import CHECKPOINT, package_chat, requirements, stage_code
from mlflow_phi3.serving.pyfunc import read_requests
from mlflow_phi3.tracking.registry import save_model
from tests.running import free_port, running
from tests.unit.serving.running import reply_to

HELLO = [{"role": "user", "content": "hold the light"}]


@pytest.fixture(scope="module")
def model_path(folder, tmp_path_factory) -> Path:
    tmp = tmp_path_factory.mktemp("mlflow")
    servable = package_chat(folder, tmp / "code", name="tiny", default_max_tokens=6)
    save_model(servable, tmp / "model")
    return tmp / "model"


@pytest.fixture(scope="module")
def pyfunc(model_path):
    return mlflow.pyfunc.load_model(str(model_path))


def text(completion):
    return completion["choices"][0]["message"]["content"]


def test_no_pickle_and_no_weights_of_the_package_in_the_logged_model(model_path):
    files = [file for file in model_path.rglob("*") if file.is_file()]
    assert not [file for file in files if file.suffix in {".pkl", ".bin", ".pt", ".pickle"}]
    weights = [file.parent for file in files if file.suffix == ".safetensors"]
    assert weights == [model_path / CHECKPOINT]


def test_pyfunc_answers_as_the_local_model(pyfunc, local):
    body = {"messages": HELLO, "max_tokens": 8}
    expected = reply_to(local, body).answers[0]
    found = pyfunc.predict(body)
    assert text(found) == expected.text
    assert found["usage"]["completion_tokens"] == 8
    assert found["model"] == "tiny"


def test_settings_travel_with_the_model(pyfunc):
    assert pyfunc.predict({"messages": HELLO})["usage"]["completion_tokens"] == 6


def test_the_newer_name_of_a_length_holds_too(pyfunc):
    reply = pyfunc.predict({"messages": HELLO, "max_completion_tokens": 3})
    assert reply["usage"]["completion_tokens"] == 3


def test_a_frame_of_requests_is_answered_row_by_row(pyfunc):
    frame = pd.DataFrame({"messages": [HELLO, HELLO], "max_tokens": [2, 4]})
    assert [row["usage"]["completion_tokens"] for row in pyfunc.predict(frame)] == [2, 4]


def test_what_a_row_of_a_frame_lacks_is_not_asked_for():
    lengths, warmth = np.array([2, np.nan]), np.array([np.nan, 0], dtype=np.float32)
    frame = pd.DataFrame({"messages": [HELLO] * 2, "max_tokens": lengths, "temperature": warmth})
    frame["stop"] = pd.NA
    assert read_requests(frame) == [
        {"messages": HELLO, "max_tokens": 2},
        {"messages": HELLO, "temperature": 0},
    ]


def test_a_wrong_request_is_a_400_with_its_name(pyfunc):
    with pytest.raises(MlflowException, match="PHI3-U041 temperature") as told:
        pyfunc.predict({"messages": HELLO, "temperature": 9.0})
    assert told.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"messages": HELLO, "temperature": 9.0}, "PHI3-U041 row 1: temperature: "),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, "PHI3-U042 row 1: messages: "),
    ],
)
def test_a_wrong_row_is_named_before_any_is_answered(checkpoint, monkeypatch, bad, told):
    chat, answered = Chat(checkpoint, name="phi", default_max_tokens=2), []
    monkeypatch.setattr(chat._model, "answer", answered.append)
    with pytest.raises(UsageError, match=told):
        chat.answer([{"messages": HELLO}, bad])
    assert not answered


@pytest.mark.parametrize(
    ("name", "value"), [("dtype", "float16"), ("default_max_tokens", 0), ("device", "elsewhere")]
)
def test_a_setting_that_cannot_be_meant_is_a_400_on_loading(model_path, name, value):
    with pytest.raises(MlflowException, match=f"model_config.{name}: .*{value}") as told:
        mlflow.pyfunc.load_model(str(model_path), model_config={name: value})
    assert told.value.get_http_status_code() == 400


def test_staged_code_is_the_whole_package_without_data(tmp_path):
    staged = stage_code(tmp_path)
    assert (staged / "serving" / "chat.py").is_file()
    # The page templates and the catalog are code's own; weights and conversations stay behind.
    suffixes = {file.suffix for file in staged.rglob("*") if file.is_file()}
    assert suffixes == {".py", ".jinja", ".json"}


def test_requirements_are_pinned_without_local_parts():
    pinned = dict(item.split("==") for item in requirements())
    assert {"mlflow", "torch", "transformers"} <= set(pinned)
    assert not [version for version in pinned.values() if "+" in version]


# Prints what files of ours import at the top of what is loaded with a model.
_WATCH = """
import builtins, sys
found, plain = set(), builtins.__import__

def watched(name, globals=None, *rest, **more):
    if globals and str(globals.get("__name__")).startswith("mlflow_phi3."):
        found.add(name.partition(".")[0])
    return plain(name, globals, *rest, **more)

builtins.__import__ = watched
import mlflow_phi3.serving.pyfunc
print(*found - sys.stdlib_module_names - {"mlflow_phi3"})
"""


def test_what_loading_imports_is_required():
    told = subprocess.run(
        [sys.executable, "-c", _WATCH], capture_output=True, text=True, check=True
    )
    # By pydantic, transformers, its hub client, and MLflow.
    brought = {"pydantic_core", "tokenizers", "httpx", "urllib3"}
    assert set(told.stdout.split()) - brought <= {one.split("==")[0] for one in requirements()}


@pytest.fixture(scope="module")
def scoring_server(model_path):
    """MLflow's own server in a process that knows the package from the logged code alone."""
    port = free_port()
    # -S leaves out the installed (editable) package: its path is put in by site.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(libraries),
        "__pyfunc_model_path__": str(model_path),
    }
    command = [sys.executable, "-S", "-m", "uvicorn", "mlflow.pyfunc.scoring_server.app:app"]
    command = [*command, "--port", str(port), "--log-level", "error"]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/ping", env=environment, cwd=model_path.parent):
        yield url


@pytest.mark.slow
def test_mlflows_server_answers_in_the_same_words(scoring_server, pyfunc):
    body = {"messages": HELLO, "max_tokens": 8, "temperature": 0}
    found = httpx.post(f"{scoring_server}/invocations", json=body, timeout=60)
    assert found.status_code == 200, found.text
    assert text(found.json()) == text(pyfunc.predict(body))


@pytest.mark.slow
def test_mlflows_server_tells_what_is_wrong(scoring_server):
    body = {"messages": [{"role": "robot", "content": "x"}]}
    found = httpx.post(f"{scoring_server}/invocations", json=body, timeout=60)
    assert found.status_code == 400
    assert "messages.0.role" in found.text
