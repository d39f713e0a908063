"""Keys of endpoints of either kind: beside the resources, never in them."""

import secrets

from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store

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
        with self._store.transaction():  # or the other key, replaced meanwhile, would come back
            changed = {**self.get(endpoint_id), name: value or secrets.token_urlsafe(24)}
            self._put(endpoint_id, changed)

    def delete(self, endpoint_id: str) -> None:
        """Forget an endpoint's keys."""
        self._store.delete(_place(endpoint_id))

    def open(self, kind: str, name: str, key: str) -> Resource:
        """Return the endpoint that a call with one of its keys is for.

        Args:
            kind: Of the store.
            name: As the call spells it; an endpoint's name is the only one of its kind.
            key: What the call brings.

        Raises:
            Refusal: 404 for an unknown name, 401 for a wrong key.
        """
        for endpoint in self._store.of_kind(kind):
            if endpoint["name"].lower() == name.lower():
                good = self.get(endpoint["id"]).values()
                if any(secrets.compare_digest(key.encode(), one.encode()) for one in good):
                    return endpoint
                text = "The key or token of the call is wrong or missing."
                raise Refusal(401, "Unauthorized", text)
        raise Refusal(404, "NotFound", f"No endpoint {name}.")

    def _put(self, endpoint_id: str, keys: dict[str, str]) -> None:
        self._store.put(_place(endpoint_id), "keys", keys)


def _place(endpoint_id: str) -> str:
    return f"/keys{endpoint_id}"
