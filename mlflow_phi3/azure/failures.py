"""Azure's errors as ours: status, code and request id kept, secrets removed."""

import contextlib
import re
from collections.abc import Iterator

from azure.core.exceptions import (
    AzureError as SdkError,
)
from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from mlflow_phi3.errors import AzureError

_SECRETS = (
    (re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\1[secret]"),
    (re.compile(r"(?i)(\bsig=)[^&\s\"']+"), r"\1[secret]"),
    (re.compile(r"(?i)(account_?key=)[^;\s\"']+"), r"\1[secret]"),
    (
        re.compile(
            r"(?i)(\"?(?:primary_?key|secondary_?key|client_?secret|access_?token|api[-_]?key)"
            r"\"?\s*[:=]\s*\"?)[^\",\s}]+"
        ),
        r"\1[secret]",
    ),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[secret]"),
)

_CONFLICT = 409
_FIXES = {
    401: "sign in again (az login), or check AZURE_TENANT_ID, AZURE_CLIENT_ID and its secret",
    403: "ask for the role Azure AI Developer on the resource group",
    404: "check the name, and the target's subscription, resource group and project",
    409: "change what the service names; where another operation is at work, wait until it has "
    "ended. Then run the same command again",
    429: "wait a minute, then run the same command again; it goes on where it stopped",
}
_WAIT = "wait until the other operation has ended, then run the same command again"
_FIXES_BY_CODE = {
    "DeploymentLimitReached": "delete the deployment that this model has, or deploy another "
    "version (mlflow deployments list -t azure-foundry shows what runs)",
    "ModelInUse": "delete the deployments of the model first (mlflow deployments list "
    "-t azure-foundry shows them)",
    "OutOfQuota": "take fewer or smaller machines (-C instance_count=, -C instance_type=), delete "
    "an idle deployment (mlflow deployments list -t azure-foundry shows what runs), or ask Azure "
    "for more quota",
    "ModelNotFound": "the model is gone from the project: deploy another version, or make it again",
}
"""By the service's own code, where the status says too little."""
_AT_WORK = re.compile(r"(?i)in ?progress|on ?going|being (changed|created|updated|deleted)")
"""How the service says 409 of another operation, in its code or its words."""
_TRIED = re.compile(r"^\t(\w+Credential): (.+)$", re.MULTILINE)
"""How DefaultAzureCredential (azure-identity) tells what came of each way to sign in."""
_NOT_IN = re.compile(r"AADSTS\d+|(?i:authentication failed)")
"""How a way that was open was refused; those that were not open say otherwise."""
_DENIED = re.compile(r"perform action '(?P<action>[^']+)' over scope '(?P<scope>[^']+)'")
"""How the resource manager says 403 (AuthorizationFailed)."""
_FIX_LATER = "run the same command again; it goes on where it stopped"


def redact(text: str) -> str:
    """Return the text without keys, tokens and signatures."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise what the SDK raises as an AzureError about ``where``."""
    try:
        yield
    except ClientAuthenticationError as error:
        raise _from_response(error, where, "PHI3-A702") from error
    except DecodeError as error:
        raise AzureError(
            "PHI3-A715",
            "what answered is not Azure: it tells no JSON",
            where=where,
            fix="see what stands in between, such as a proxy or a sign-in page; then run it again",
            status=error.status_code,
        ) from error
    except HttpResponseError as error:
        raise _from_response(error, where, "PHI3-A701") from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise AzureError(
            "PHI3-A703",
            f"no answer: {redact(_first_line(error))}",
            where=where,
            fix=f"check the network; {_FIX_LATER}",
        ) from error
    except SdkError as error:
        raise AzureError(
            "PHI3-A704", redact(_first_line(error)), where=where, fix=_FIX_LATER
        ) from error


def _from_response(error: HttpResponseError, where: str, code: str) -> AzureError:
    told = getattr(error, "error", None)
    headers = getattr(error.response, "headers", {})
    text = told.message if told is not None and told.message else _why(error)
    azure_code = str(getattr(told, "code", "") or "")
    status = error.status_code
    fix = (
        _grant(str(text))
        or _FIXES_BY_CODE.get(azure_code)
        or (_WAIT if status == _CONFLICT and _AT_WORK.search(f"{azure_code} {text}") else None)
        or _FIXES.get(status or (401 if code == "PHI3-A702" else 0))
    )
    if fix is None:
        server_side = status is None or status >= 500
        fix = _FIX_LATER if server_side else "change what the service names, then run it again"
    return AzureError(
        code,
        redact(str(text)).rstrip(". "),
        where=where,
        fix=fix,
        status=status,
        azure_code=azure_code,
        request_id=str(headers.get("x-ms-request-id", "")),
    )


def _grant(text: str) -> str | None:
    """Return whom to ask for which action, where the service names it."""
    denied = _DENIED.search(text)
    if denied is None:
        return None
    words = denied["scope"].strip("/").split("/")
    group = f"resource group {words[3]}" if len(words) > 3 else "the subscription"
    return (
        f"ask an owner of {group} for a role that grants {denied['action']} "
        "(mlflow-phi3 doctor lists all that each step needs)"
    )


def _why(error: HttpResponseError) -> str:
    """Return why a request failed; of a sign-in, what was refused of the ways that were tried."""
    tried = _TRIED.findall(str(error.message))
    refused = [
        f"{way}: {told.partition(' Trace ID')[0]}" for way, told in tried if _NOT_IN.search(told)
    ]
    if tried and not refused:
        return f"nobody is signed in; tried {', '.join(way for way, _ in tried)}"
    return "; ".join(refused) or _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
