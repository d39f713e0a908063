"""Content safety of a managed deployment: its process asks, with a key that Azure hands it."""

import json
import shutil

import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3.azure.client import open_workspace
from mlflow_phi3.azure.target import find_target
from tests.content_safety import HARMFUL, KEY, content_safety

MODEL = """
import os

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel

from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.errors import UsageError


class Safe(PythonModel):
    def load_context(self, context):
        self.safety = safety_from(os.environ)

    def predict(self, context, model_input, params=None):
        (row,) = model_input.to_dict("records")
        texts = [message["content"] for message in row["messages"]]
        try:
            self.safety.check_prompt(texts)
        except UsageError as error:
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error
        message = {"role": "assistant", "content": f"about {texts[-1]}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return [self.safety.filter({"choices": [choice]})]


mlflow.models.set_model(Safe())
"""


@pytest.fixture
def safe_model(models, tmp_path):
    """An MLflow model whose code is asked to be safe as ours is."""
    folder = tmp_path / "safe"
    shutil.copytree(models["one"], folder)
    (folder / "model.py").write_text(MODEL)
    described = (folder / "MLmodel").read_text()
    ours = "    config:\n      default_max_tokens: 512\n    python_version"
    (folder / "MLmodel").write_text(described.replace("    python_version", ours))
    return str(folder)


@pytest.fixture
def service(emulator, tmp_path):
    """Content Safety, and the project's connection to it, made by the official SDK."""
    environment = emulator.environment
    workspace = open_workspace(find_target("azure-foundry", environment, tmp_path), environment)
    # Not before: the SDK's modules import each other, and do so well in one order alone.
    from azure.ai.ml.entities import AzureContentSafetyConnection

    with content_safety() as running:
        made = AzureContentSafetyConnection(name="safety", endpoint=running.url, api_key=KEY)
        with workspace.session("connection") as ml:
            ml.connections.create_or_update(made)
        yield running


def post(emulator, endpoint, key, content):
    """Ask an endpoint as anybody may, without a client of ours."""
    return emulator.http.post(
        f"/online/{endpoint}/score",
        json={"input_data": {"columns": ["messages"], "data": [[asking(content)["messages"]]]}},
        headers={"Authorization": f"Bearer {key}"},
    )


def asking(content):
    return {"messages": [{"role": "user", "content": content}]}


def test_the_scoring_process_asks_and_the_key_is_nowhere_else(
    client, emulator, safe_model, service, check_published, capsys
):
    config = {"content_safety_connection": "safety"}
    client.create_deployment("safe", safe_model, config=config)
    answer = client.predict("safe", asking("tea"))["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == ("about tea", "stop")
    assert service.asked[-2:] == ["tea", "about tea"]
    with pytest.raises(MlflowException, match=r"content_filter: Violence .*status 400"):
        client.predict("safe", asking(HARMFUL))
    key = client._deployer.managed.service(60).get_key("safe")
    passed_on = post(emulator, "safe", key, HARMFUL)
    assert passed_on.status_code == 424
    assert passed_on.headers["ms-azureml-model-error-statuscode"] == "400"

    changes = emulator.changes()
    # No types of the connections' api-version (2024-04-01-preview) are published beside us.
    check_published([change for change in changes if "/connections/" not in change["path"]])
    (put,) = [c for c in changes if c["path"].endswith("/deployments/blue")]
    variables = put["body"]["properties"]["environmentVariables"]
    assert variables["CONTENT_SAFETY_KEY"] == "${{azureml://connections/safety/credentials/key}}"
    shown = [client.get_deployment("safe"), emulator.journal(), *capsys.readouterr()]
    assert KEY not in json.dumps(shown)
    client.delete_deployment("safe")


def test_what_is_not_there_is_told_and_leaves_nothing(client, models, safe_model, capsys):
    with pytest.raises(MlflowException, match=r"There is no secret at .*connections/nowhere"):
        config = {"content_safety_connection": "nowhere"}
        client.create_deployment("unsafe", safe_model, config=config)
    with pytest.raises(MlflowException, match=r"PHI3-U720 .*asks nobody"):
        client.create_deployment("unsafe", models["one"], config=config)
    assert client.list_endpoints() == []
    off = {"content_safety": "false", "content_safety_reason": "a test", "dry_run": "true"}
    client.create_deployment("unsafe", models["one"], config=off)
    said = capsys.readouterr().err
    assert '"phi3.content_safety_off": "a test"' in said
    assert "no content safety" not in said
    client.create_deployment("unsafe", models["one"], config={"dry_run": "true"})
    assert "no content safety" in capsys.readouterr().err
