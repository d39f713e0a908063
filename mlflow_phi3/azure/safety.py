"""Azure AI Content Safety around a model: what it is asked and what it answers.

Managed compute filters nothing by itself, so the scoring process asks the service. This file
travels with the model and is loaded there: it needs no Azure SDK.
Source: "Azure AI Content Safety REST API", Text Operations - Analyze Text, 2024-09-01.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from mlflow_phi3.errors import AzureError, UsageError

ENDPOINT_VARIABLE = "CONTENT_SAFETY_ENDPOINT"
KEY_VARIABLE = "CONTENT_SAFETY_KEY"
SEVERITY_VARIABLE = "CONTENT_SAFETY_SEVERITY"
SAFETY_VARIABLES = (ENDPOINT_VARIABLE, KEY_VARIABLE)
"""Environment variables of the scoring process that say whom to ask."""

_PATH = "/contentsafety/text:analyze?api-version=2024-09-01"
_MEDIUM = 4
"""What Azure OpenAI's default filter blocks from on."""
_SEVERITIES = frozenset({"2", "4", "6"})
"""From which a text may be held back: 0 is harmless, and the service tells no others."""
_LONGEST = 10_000
"""Characters that the service takes at once."""
_OVERLAP = 500
"""Characters that are asked about twice, so that nothing hides where a long text is cut."""
_TIMEOUT_S = 10.0
_LONGEST_WAIT_S = 2.0
"""A scoring request waits for the verdict, and its own caller for both."""
_OK = 200


class _Retry(urllib3.Retry):
    """Waits as long as the service asks for, up to a bound; urllib3 knows one only of late."""

    def parse_retry_after(self, retry_after: str) -> float:
        return min(super().parse_retry_after(retry_after), _LONGEST_WAIT_S)


_RETRIES = _Retry(
    total=3,
    backoff_factor=0.2,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)


def variables_for(connection: str) -> dict[str, str]:
    """Return a deployment's environment variables that lead to a connection of its project.

    Azure puts the values in as the container starts, so no key is in the deployment.
    Source: "Access secrets from online deployment using secret injection".

    Args:
        connection: Name of a connection to an Azure AI Content Safety resource.
    """
    place = f"azureml://connections/{connection}"
    return {
        ENDPOINT_VARIABLE: f"${{{{{place}/target}}}}",
        KEY_VARIABLE: f"${{{{{place}/credentials/key}}}}",
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a text.

    Args:
        category: ``Hate``, ``SelfHarm``, ``Sexual`` or ``Violence``.
        severity: 0, 2, 4 or 6.
    """

    category: str
    severity: int

    def __str__(self) -> str:
        return f"{self.category} (severity {self.severity})"


class ContentSafety:
    """A client of one Content Safety resource.

    Args:
        endpoint: Its address.
        key: Its key; kept in memory only.
        severity: From which severity on a text is held back.
    """

    def __init__(self, endpoint: str, key: str, *, severity: int = _MEDIUM) -> None:
        self._url = endpoint.rstrip("/") + _PATH
        self._headers = {"Ocp-Apim-Subscription-Key": key}
        self._severity = severity
        self._pool = urllib3.PoolManager(retries=_RETRIES, timeout=_TIMEOUT_S)

    def find(self, text: str) -> tuple[Finding, ...]:
        """Return what is too severe in a text.

        Raises:
            AzureError: The service gives no verdict: then nothing may pass.
        """
        worst: dict[str, int] = {}
        for part in _parts(text):
            for told in self._analyze(part):
                category, severity = str(told["category"]), int(told.get("severity") or 0)
                worst[category] = max(severity, worst.get(category, 0))
        found = (Finding(category, severity) for category, severity in sorted(worst.items()))
        return tuple(finding for finding in found if finding.severity >= self._severity)

    def check_prompt(self, texts: Iterable[str]) -> None:
        """Refuse what is asked.

        Args:
            texts: The messages of a conversation.

        Raises:
            UsageError: It is too severe.
            AzureError: The service gives no verdict.
        """
        found = self.find("\n".join(texts))
        if found:
            raise UsageError(
                "PHI3-U751",
                f"content_filter: {', '.join(map(str, found))}",
                where="messages",
                fix="ask something else",
            )

    def filter(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Return a chat completion without the texts that are too severe.

        Their choices are empty and end by ``content_filter``, as OpenAI's do.

        Raises:
            AzureError: The service gives no verdict.
        """
        choices = [self._filtered(choice) for choice in completion["choices"]]
        return {**completion, "choices": choices}

    def _filtered(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        if not self.find(str(choice["message"].get("content") or "")):
            return dict(choice)
        message = {**choice["message"], "content": ""}
        return {**choice, "message": message, "logprobs": None, "finish_reason": "content_filter"}

    def _analyze(self, text: str) -> list[dict[str, Any]]:
        body = {"text": text, "outputType": "FourSeverityLevels"}
        try:
            answer = self._pool.request("POST", self._url, json=body, headers=self._headers)
            if answer.status == _OK:
                return list(answer.json()["categoriesAnalysis"])
        except (urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
            raise _no_verdict(type(error).__name__, None) from error
        raise _no_verdict(answer.reason or "refused", answer.status)


def safety_from(environment: Mapping[str, str]) -> ContentSafety | None:
    """Return the client that a process environment asks for, or None.

    Raises:
        UsageError: An endpoint without a key, or a severity that holds back nothing, or all.
    """
    endpoint = environment.get(ENDPOINT_VARIABLE, "")
    if not endpoint:
        return None
    key, severity = environment.get(KEY_VARIABLE, ""), environment.get(SEVERITY_VARIABLE, "4")
    if not key or severity not in _SEVERITIES:
        raise UsageError(
            "PHI3-U752",
            "no key" if not key else f"{severity!r} is not a severity",
            where=SEVERITY_VARIABLE if key else KEY_VARIABLE,
            fix=f"set {KEY_VARIABLE}, and {SEVERITY_VARIABLE} to 2, 4 or 6; or unset all three",
        )
    return ContentSafety(endpoint, key, severity=int(severity))


def _parts(text: str) -> Iterator[str]:
    """Cut what is too long for one request, overlapping; nothing is asked about white space."""
    for start in range(0, max(len(text) - _OVERLAP, 1), _LONGEST - _OVERLAP):
        part = text[start : start + _LONGEST]
        if part.strip():
            yield part


def _no_verdict(why: str, status: int | None) -> AzureError:
    return AzureError(
        "PHI3-A709",
        f"content safety gives no verdict: {why}",
        where=ENDPOINT_VARIABLE,
        fix="check its address and key; nothing passes without a verdict",
        status=status,
    )
