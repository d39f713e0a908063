"""Tokens: signed with a secret of this emulator, good for an hour."""

import secrets
import time

import jwt

_LIFE_S = 3600


class Identity:
    """One application of one tenant.

    Args:
        tenant: Tenant id.
        client_id: Application id.
        client_secret: What the application signs in with.
        key: What tokens are signed with.
    """

    def __init__(self, tenant: str, client_id: str, client_secret: str, key: str) -> None:
        self.tenant = tenant
        self._client_id = client_id
        self._client_secret = client_secret
        self._key = key

    def issue(self, client_id: str, client_secret: str, scope: str) -> tuple[str, int] | None:
        """Return a token and its life in seconds, or None for the wrong application or secret."""
        right = secrets.compare_digest(client_secret.encode(), self._client_secret.encode())
        if client_id != self._client_id or not right:
            return None
        now = int(time.time())
        claims = {
            "aud": scope.removesuffix("/.default"),
            "iss": "mlflow-phi3-emulator",
            "iat": now,
            "exp": now + _LIFE_S,
            "tid": self.tenant,
            "appid": client_id,
            "oid": client_id,
        }
        return jwt.encode(claims, self._key, algorithm="HS256"), _LIFE_S

    def is_good(self, token: str) -> bool:
        """Tell whether a token is ours and has not expired."""
        try:
            jwt.decode(token, self._key, algorithms=["HS256"], options={"verify_aud": False})
        except jwt.InvalidTokenError:
            return False
        return True
