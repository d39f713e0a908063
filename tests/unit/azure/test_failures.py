import json

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
)
from azure.identity import ChainedTokenCredential, CredentialUnavailableError
from azure.mgmt.core.exceptions import ARMErrorFormat

from mlflow_phi3.azure.failures import redact, translated
from mlflow_phi3.errors import AzureError


class Response:
    status_code = 403
    reason = "Forbidden"
    headers = {"x-ms-request-id": "abc-1"}  # noqa: RUF012 - read only

    def text(self, encoding=None):
        return ""


def test_status_and_request_id_are_kept_and_the_mend_fits():
    with (
        pytest.raises(AzureError, match=r"PHI3-A701 .*status 403, request id abc-1.*Azure AI Dev"),
        translated("endpoint chat"),
    ):
        raise HttpResponseError("no permission", response=Response())


class Conflict(Response):
    status_code = 409

    def __init__(self, code, message):
        self._told = json.dumps({"error": {"code": code, "message": message}})

    def text(self, encoding=None):
        return self._told


@pytest.mark.parametrize(
    ("code", "message", "mend"),
    [
        ("ResourceOperationInProgress", "chat is Updating", "Fix: wait until the other operation"),
        ("Conflict", "Another operation is in progress.", "Fix: wait until the other operation"),
        ("DeploymentLimitReached", "It is deployed.", "Fix: delete the deployment that this model"),
        ("ModelInUse", "It is deployed.", "Fix: delete the deployments of the model first"),
        ("ImmutableError", "It differs.", "Fix: change what the service names; where another"),
    ],
)
def test_a_conflict_has_the_mend_of_its_code(code, message, mend):
    refused = HttpResponseError(response=Conflict(code, message), error_format=ARMErrorFormat)
    with pytest.raises(AzureError, match=rf"PHI3-A701 .*code {code}.*{mend}"), translated("x"):
        raise refused


def test_no_network_and_no_sign_in_have_codes_of_their_own():
    with pytest.raises(AzureError, match="PHI3-A703"), translated("x"):
        raise ServiceRequestError("name or service not known")
    with pytest.raises(AzureError, match=r"PHI3-A702 .*az login"), translated("x"):
        raise ClientAuthenticationError("no credential")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRETSECRET.x",
        "https://x/blob?sv=1&sig=SECRETSECRET%3D&se=2",
        '{"primaryKey": "SECRETSECRET"}',
        "AccountKey=SECRETSECRET;End",
        "client_secret=SECRETSECRET",
        "token eyJSECRETSECRET.eyJzdWIiOiIxIn0.c2ln",
    ],
)
def test_secrets_are_taken_out(text):
    assert "SECRETSECRET" not in redact(text)
    assert "[secret]" in redact(text)


def test_other_text_stays():
    text = "The VM size Standard_X is not supported; known keys: a, b."
    assert redact(text) == text


class EnvironmentCredential:
    """A way to sign in that answers with an error."""

    def __init__(self, error):
        self._error = error

    def get_token(self, *_scopes, **_options):
        raise self._error


class CliCredential(EnvironmentCredential):
    pass


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            ClientAuthenticationError("AADSTS7000215: Invalid client secret. Trace ID: 1-2"),
            r"A702 x: CliCredential: AADSTS7000215: Invalid client secret\. Fix: sign in again",
        ),
        (
            CredentialUnavailableError("Please run 'az login'"),
            r"A702 x: nobody is signed in; tried EnvironmentCredential, CliCredential\. Fix",
        ),
    ],
)
def test_why_signing_in_failed_is_told_of_the_way_that_was_open(answer, told):
    unset = CredentialUnavailableError("EnvironmentCredential is not fully configured.")
    chain = ChainedTokenCredential(EnvironmentCredential(unset), CliCredential(answer))
    with pytest.raises(AzureError, match=told), translated("x"):
        chain.get_token("scope")
