"""Requests that are not answered, and why."""

import json
import logging
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from mlflow_phi3.errors import Phi3Error

logger = logging.getLogger(__name__)

# A body that is too large is read to its end up to so many limits: a connection that is closed on
# a client that still writes looks like a network fault to it, and the answer is never read.
_READ_AWAY = 16


class Refused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """A request that is not answered.

    Args:
        status: HTTP's.
        told: What is wrong with it, for people.
        param: The field that is wrong, where it is one.
        code: Ours, such as ``PHI3-U041``.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        told: str,
        *,
        param: str = "",
        code: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(told)
        self.status = status
        self._body = error_body(told, param=param, code=code)
        self._headers = headers

    def to_response(self) -> Response:
        """The answer that says why."""
        return JSONResponse(self._body, self.status, headers=self._headers)


def error_body(
    told: str, *, kind: str = "invalid_request_error", param: str = "", code: str = ""
) -> dict[str, Any]:
    """OpenAI's shape of an error."""
    return {"error": {"message": told, "type": kind, "param": param or None, "code": code or None}}


def fault_body(error: Exception) -> dict[str, Any]:
    """What a client is told of a fault of ours; one that was not foreseen goes to the log."""
    if not isinstance(error, Phi3Error):
        logger.error("a request failed", exc_info=error)
        error = Phi3Error(
            "PHI3-T071",
            f"the request failed: {type(error).__name__}",
            where="server",
            fix="see the server's log",
        )
    return error_body(str(error), kind="server_error", code=error.code)


async def read_json(request: Request, most: int) -> Any:
    """The decoded body of a request, which may have ``most`` bytes.

    Raises:
        Refused: It is larger (413), or not JSON that text can be made of (400).
    """
    body, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            body += part
        elif size > _READ_AWAY * most:
            break
    if size > most:
        raise Refused(413, f"the body is over {most} bytes")
    try:
        decoded = json.loads(body)
        # JSON may name one half of a surrogate pair, of which neither tokens nor answers are made.
        json.dumps(decoded, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused(400, f"the body holds what is no character: {error}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError
        raise Refused(400, f"the body is not JSON: {error}") from error
    return decoded
