"""What a person sees of our errors in MLflow's own commands."""

import os
import signal
import time

import pytest
from click.testing import CliRunner
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.errors import AzureError, GateError, Interrupted, UsageError
from mlflow_phi3.plugins.deployments import AzureFoundryClient
from mlflow_phi3.plugins.failures import as_mlflow


def test_a_refused_key_is_one_line_and_no_traceback():
    create = ["create", "-t", "azure-foundry:/a/b/c", "--name", "chat", "-m", "models:/x/1"]

    told = CliRunner().invoke(commands, [*create, "-C", "instance_typ=x"])

    assert told.exit_code == 2
    assert "PHI3-U004 instance_typ" in told.output
    assert "did you mean 'instance_type'?" in told.output
    assert "Traceback" not in told.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_told_to_stop_ends_with_130_and_a_program_gets_the_order(
    monkeypatch, number
):
    def stop(*_):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(Deployer, "remove", stop)
    told = CliRunner().invoke(commands, ["delete", "-t", "azure-foundry:/a/b/c", "--name", "chat"])
    assert (told.exit_code, told.output) == (130, f"Error: PHI3-T001: stopped by {number.name}.\n")

    with pytest.raises(Interrupted, match=number.name):
        AzureFoundryClient("azure-foundry:/a/b/c").delete_deployment("chat")


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (UsageError("PHI3-U001", "no"), "INVALID_PARAMETER_VALUE", 2),
        (GateError("PHI3-G001", "no"), "BAD_REQUEST", 6),
        *(
            (AzureError("PHI3-A001", "no", status=status), code, 5)
            for status, code in (
                (None, "BAD_REQUEST"),
                (401, "UNAUTHENTICATED"),
                (403, "PERMISSION_DENIED"),
                (404, "RESOURCE_DOES_NOT_EXIST"),
                (409, "RESOURCE_CONFLICT"),
                (418, "BAD_REQUEST"),
                (429, "REQUEST_LIMIT_EXCEEDED"),
                (500, "TEMPORARILY_UNAVAILABLE"),
                (504, "TEMPORARILY_UNAVAILABLE"),
            )
        ),
    ],
)
def test_those_who_call_get_mlflows_exception_with_its_code(error, code, exit_code):
    with pytest.raises(MlflowException) as caught:
        raise as_mlflow(error)

    assert caught.value.error_code == code
    assert caught.value.exit_code == exit_code
    assert str(caught.value) == str(error)


def test_what_azure_told_stays_with_the_exception():
    error = AzureError("PHI3-A001", "no", status=403, azure_code="Denied", request_id="r")

    facts = as_mlflow(error).json_kwargs

    assert facts == {"azure_status": 403, "azure_code": "Denied", "azure_request_id": "r"}
