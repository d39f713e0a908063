"""Requests that azure-ai-ml has no word for, through its own pipeline: sign-in, retries, cloud."""

from typing import Any

_NOT_FOUND = 404
_MAY_BE_GONE = frozenset({"GET", "DELETE"})
"""Where 404 is an answer; to PUT and POST it says that something they need is missing."""
_TELLING = frozenset({"GET", "POST"})
"""Whose answer is what was asked for."""
_REFUSED = 400


def pipeline_of(ml: Any) -> Any:
    """Return the pipeline of a signed-in ``MLClient``."""
    return ml.serverless_endpoints._service_client._client  # noqa: SLF001 - there is no public way


def send(ml: Any, method: str, url: str, *, body: Any = None) -> Any | None:
    """Send one request.

    Args:
        ml: A signed-in ``MLClient``.
        method: ``GET``, ``PUT``, ...
        url: With its query; whole, or from ``/subscriptions`` on.
        body: What becomes JSON.

    Returns:
        The pipeline's response, or None when what is read or deleted is not there.

    Raises:
        HttpResponseError: Refused; DecodeError: the answer to a question is no JSON.
    """
    from azure.core.exceptions import DecodeError, HttpResponseError
    from azure.core.rest import HttpRequest
    from azure.mgmt.core.exceptions import ARMErrorFormat

    pipeline = pipeline_of(ml)
    home = ml.serverless_endpoints._service_client._config.base_url  # noqa: SLF001 - as above
    request = HttpRequest(method, pipeline.format_url(url, endpoint=home), json=body)
    answer = pipeline.send_request(request, _return_pipeline_response=True)
    told = answer.http_response
    if told.status_code == _NOT_FOUND and method in _MAY_BE_GONE:
        return None
    if told.status_code >= _REFUSED:
        raise HttpResponseError(response=told, error_format=ARMErrorFormat)
    if method in _TELLING and told.content:
        try:
            told.json()
        except ValueError as error:
            raise DecodeError("its answer is no JSON", response=told) from error
    return answer


def read_list(ml: Any, url: str) -> list[dict[str, Any]]:
    """Return all items of a list, which the service tells in pages that name the next one.

    Args:
        ml: A signed-in ``MLClient``.
        url: Of the first page, as of :func:`send`.

    Returns:
        None of them when what the list is of is not there.

    Raises:
        HttpResponseError: Refused.
    """
    items: list[dict[str, Any]] = []
    while url and (answer := send(ml, "GET", url)) is not None:
        page = answer.http_response.json()
        items += page.get("value") or ()
        url = str(page.get("nextLink") or "")
    return items
