import json

import pytest
from azure.core.exceptions import AzureError as SdkError
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


class Told(Response):
    def __init__(self, status, code, message):
        self.status_code = status
        self._told = json.dumps({"error": {"code": code, "message": message}})

    def text(self, encoding=None):
        return self._told


@pytest.mark.parametrize(
    ("status", "code", "message", "mend"),
    [
        (409, "ResourceOperationInProgress", "chat is Updating", "wait until the other operation"),
        (409, "Conflict", "Another operation is in progress.", "wait until the other operation"),
        (409, "DeploymentLimitReached", "It is deployed.", "delete the deployment that this model"),
        (409, "ModelInUse", "It is deployed.", "delete the deployments of the model first"),
        (409, "ImmutableError", "It differs.", "change what the service names; where another"),
        (400, "BadRequest", "It is in progress.", "change what the service names, then run"),
        (400, "OutOfQuota", "Not enough cores.", "take fewer or smaller machines"),
        (401, "Unauthorized", "No.", "sign in again"),
        (404, "NotFound", "No.", "check the name, and the target"),
        (429, "TooManyRequests", "No.", "wait a minute"),
        (500, "InternalServerError", "No.", "run the same command again; it goes on"),
        (
            403,
            "Denied",
            "May not perform action 'a/b' over scope '/subscriptions/s'.",
            r"ask an owner of the subscription for a role that grants a/b \(",
        ),
        (
            403,
            "Denied",
            "May not perform action 'a/b' over scope '/subscriptions/s/resourceGroups/g'.",
            r"ask an owner of resource group g for a role that grants a/b \(",
        ),
    ],
)
def test_a_refusal_has_the_mend_of_its_status_its_code_or_its_words(status, code, message, mend):
    refused = HttpResponseError(response=Told(status, code, message), error_format=ARMErrorFormat)
    with pytest.raises(AzureError, match=rf"A701 .*code {code}.*Fix: {mend}"), translated("x"):
        raise refused


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ServiceRequestError("no name\nat all"),
            r"A703 x: no answer: no name\. Fix: check the net",
        ),
        (ClientAuthenticationError("no credential"), r"A702 x: no credential\. Fix: .*az login"),
        (HttpResponseError("broken"), r"A701 x: broken\. Fix: run the same command again"),
        (SdkError(""), r"A704 x: AzureError\. Fix: run the same command again"),
    ],
)
def test_what_has_no_answer_is_told_by_its_kind(error, told):
    with pytest.raises(AzureError, match=told), translated("x"):
        raise error


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRETSECRET.z",
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
