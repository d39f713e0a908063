"""Calling an endpoint: key, one deployment on demand, retries within a deadline, streams."""

import contextlib
import json
import ssl
import time
import weakref
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay

from mlflow_phi3.azure.failures import redact
from mlflow_phi3.azure.operation import Deadline
from mlflow_phi3.errors import AzureError, UsageError

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""As MLflow's Databricks client: a managed endpoint is paid by the hour, whatever it is asked."""
_UNBILLED = frozenset({429, 503})
"""What a service says before a model has generated anything: after it, tokens are billed."""
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)
_MODEL_ERROR = 424
_MODEL_STATUS = "ms-azureml-model-error-statuscode"
"""Header of a 424, by which a managed endpoint tells what its scoring process answered.

Source: "Troubleshooting online endpoints deployment: HTTPS status codes".
"""
_TOTAL_S = 180.0
_CONNECT_S = 10.0
_LONGEST_WAIT_S = 20.0


class _Busy(Exception):  # noqa: N818 - a state, not a fault
    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class ScoringClient:
    """A client of one endpoint; its connections are closed when nobody has it any more.

    Args:
        uri: The endpoint's scoring URI.
        key: Its key; kept in memory only.
        trust: Whose certificates are accepted.
        by_token: Whether answers are billed by the token, as those of a serverless endpoint: then
            only what no model has worked on is asked again.
        total_s: How long all tries of one question together wait for an answer to begin or go on,
            seconds.
    """

    def __init__(
        self,
        uri: str,
        key: str,
        trust: ssl.SSLContext,
        *,
        by_token: bool = False,
        total_s: float = _TOTAL_S,
    ) -> None:
        self.by_token = by_token
        self._uri = uri
        self._total_s = total_s
        self._retried = _UNBILLED if by_token else _RETRIED
        self._lost = _UNSENT if by_token else (httpx.TransportError,)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            verify=trust,
            timeout=_timeout(total_s),
        )
        # MLflow never closes a deployments client; what a thread gives up, another may still use.
        weakref.finalize(self, self._client.close)

    def ask(self, body: Mapping[str, Any], *, deployment: str = "", path: str = "") -> Any:
        """Return the JSON answer to a request.

        Args:
            body: The request.
            deployment: Ask this deployment, whatever the traffic; empty leaves it to traffic.
            path: What follows the scoring URI.

        Raises:
            UsageError: It cannot be written as JSON.
            AzureError: Refused, no answer within the time for all tries, or none that is JSON.
        """
        content = _encoded(body)
        deadline = Deadline(self._total_s)
        retrying = Retrying(
            retry=retry_if_exception_type((_Busy, *self._lost)),
            stop=stop_before_delay(self._total_s),
            wait=_wait_s,
            sleep=time.sleep,
            reraise=True,
        )
        try:
            response = retrying(self._post, content, deployment, path, deadline)
        except _Busy as busy:
            response = busy.response
        except httpx.RequestError as gone:
            raise self._unanswered(gone) from gone
        self._check(response)
        return self._parsed(response.text)

    def stream(self, body: Mapping[str, Any], *, path: str = "") -> Iterator[dict[str, Any]]:
        """Yield the events of a server-sent stream.

        Raises:
            UsageError: The request cannot be written as JSON.
            AzureError: Refused, no answer or one that breaks off, or an event that is not JSON.
        """
        sent = _encoded({**body, "stream": True})
        try:
            with self._client.stream("POST", self._uri + path, content=sent) as response:
                if not response.is_success:
                    response.read()
                    self._check(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if line.startswith("data:") and data and data != "[DONE]":
                        yield self._parsed(data)
        except httpx.RequestError as gone:
            raise self._unanswered(gone) from gone

    def close(self) -> None:
        """Close the connections now."""
        self._client.close()

    def _post(
        self, content: bytes, deployment: str, path: str, deadline: Deadline
    ) -> httpx.Response:
        headers = {"azureml-model-deployment": deployment} if deployment else {}
        response = self._client.post(
            self._uri + path, content=content, headers=headers, timeout=_timeout(deadline.left_s())
        )
        if _status(response) in self._retried:
            raise _Busy(response)
        return response

    def _unanswered(self, gone: httpx.RequestError) -> AzureError:
        return AzureError(
            "PHI3-A706",
            f"no answer: {redact(str(gone)) or type(gone).__name__}",
            where=self._uri,
            fix="check the network, and the deployment's state by mlflow deployments get "
            "-t azure-foundry --name <endpoint>",
        )

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as odd:
            raise AzureError(
                "PHI3-A712",
                f"the answer is not JSON: {redact(text.strip()[:200])!r}",
                where=self._uri,
                fix="see what stands between here and the endpoint, or the deployment's log",
            ) from odd

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        fixes = {
            401: "the key was changed: run the command again",
            404: "check the name, and the endpoint's traffic by mlflow deployments get "
            "-t azure-foundry --name <endpoint>",
        }
        raise AzureError(
            "PHI3-A707",
            redact(_told(response)),
            where=self._uri,
            fix=fixes.get(response.status_code, "see the deployment's log, or change the request"),
            status=_status(response),
            request_id=response.headers.get("x-ms-request-id", ""),
        )


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        # As it is, not by escapes: these would let half of a surrogate pair pass for a character.
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as wrong:
        raise UsageError(
            "PHI3-U718",
            f"cannot be written as JSON: {wrong}",
            where="inputs",
            fix="give texts of whole characters, finite numbers, lists and objects of those",
        ) from wrong


def _status(response: httpx.Response) -> int:
    """Return the status of whoever refused: the endpoint, or the scoring process behind it."""
    told = response.headers.get(_MODEL_STATUS, "")
    passed_on = response.status_code == _MODEL_ERROR and told.isdigit()
    return int(told) if passed_on else response.status_code


def _timeout(left_s: float) -> httpx.Timeout:
    return httpx.Timeout(left_s, connect=min(left_s, _CONNECT_S))


def _wait_s(state: RetryCallState) -> float:
    """Return how long to wait: as told by the service, else doubling from a tenth of a second."""
    error = state.outcome.exception() if state.outcome else None
    told_s = _retry_after_s(error.response.headers) if isinstance(error, _Busy) else 0.0
    if told_s > 0:  # "at once" says nothing: asking on and on would only keep it busy
        return min(told_s, _LONGEST_WAIT_S)
    return min(0.1 * 2.0 ** (state.attempt_number - 1), _LONGEST_WAIT_S)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer asks to wait, 0 where it does not; as azure-core reads it.

    Source: RFC 9110, 10.2.3: seconds, or a date; the headers in milliseconds are Azure's own.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        with contextlib.suppress(ValueError):
            return float(headers.get(name, "")) / 1000
    text = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return float(text)
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(text).timestamp() - time.time()
    return 0.0


def _told(response: httpx.Response) -> str:
    """Return the reason in an answer's body, in Azure's, MLflow's or no shape."""
    try:
        body = response.json()
    except ValueError:
        return response.text.strip()[:500] or response.reason_phrase
    if isinstance(body, dict):
        error = body.get("error")
        if isinstance(error, dict) and error.get("message"):
            return str(error["message"])
        if body.get("message"):
            return str(body["message"])[:2000]
    return response.text[:500]
