"""The blob service as callers reach it: behind the emulator's port, also with a token."""

import httpx
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from mlflow_phi3.emulator.identity.state import Identity
from mlflow_phi3.emulator.proxy import forward
from mlflow_phi3.emulator.router import Refusal, bearer
from mlflow_phi3.emulator.storage.datastore import Datastore


class BlobService:
    """Answers what is asked of the storage account.

    Args:
        datastore: Knows the service, and makes signatures for it: it knows no tokens.
        identity: Checks them.
        client: Reaches the service.
    """

    def __init__(self, datastore: Datastore, identity: Identity, client: httpx.AsyncClient) -> None:
        self._datastore = datastore
        self._identity = identity
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one request; return the status.

        Raises:
            Refusal: 401, its token is not good; 502, the service does not answer.
        """
        headers = Headers(scope=scope)
        if headers.get("authorization", "").startswith("Bearer "):
            if not self._identity.is_good(bearer(headers)):
                raise Refusal(401, "InvalidAuthenticationInfo", "Server failed to authenticate.")
            kept = [(name, value) for name, value in headers.raw if name != b"authorization"]
            query = b"&".join(filter(None, [scope["query_string"], self._datastore.sas().encode()]))
            scope = {**scope, "headers": kept, "query_string": query}
        return await forward(self._client, self._datastore.url, scope, receive, send)
