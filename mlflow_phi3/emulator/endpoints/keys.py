"""Keys of endpoints of either kind: beside the resources, never in them."""

import secrets

from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Store

_NAMES = ("primaryKey", "secondaryKey")


class Keys:
    """Two keys for each endpoint.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, endpoint_id: str) -> None:
        """Give a new endpoint its keys."""
        self._put(endpoint_id, {name: secrets.token_urlsafe(24) for name in _NAMES})

    def get(self, endpoint_id: str) -> dict[str, str]:
        """Return an endpoint's keys by name; none when there is no such endpoint."""
        found = self._store.get(_place(endpoint_id)) or {}
        return {name: str(value) for name, value in found.items()}

    def replace(self, endpoint_id: str, name: str, value: str | None) -> None:
        """Give one key a value, or a new random one."""
        changed = {**self.get(endpoint_id), name: value or secrets.token_urlsafe(24)}
        self._put(endpoint_id, changed)

    def delete(self, endpoint_id: str) -> None:
        """Forget an endpoint's keys."""
        self._store.delete(_place(endpoint_id))

    def check(self, endpoint_id: str, key: str) -> None:
        """Let a call pass that has one of the keys.

        Raises:
            Refusal: 401.
        """
        good = self.get(endpoint_id).values()
        if not any(secrets.compare_digest(key.encode(), one.encode()) for one in good):
            raise Refusal(401, "Unauthorized", "The key or token of the call is wrong or missing.")

    def _put(self, endpoint_id: str, keys: dict[str, str]) -> None:
        self._store.put(_place(endpoint_id), "keys", keys)


def _place(endpoint_id: str) -> str:
    return f"/keys{endpoint_id}"
