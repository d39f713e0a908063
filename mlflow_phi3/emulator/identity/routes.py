"""The authority's pages that Microsoft's sign-in library asks for, and the cloud's own card."""

from mlflow_phi3.emulator.identity.state import Identity
from mlflow_phi3.emulator.router import Call, Reply, Route


def routes(identity: Identity) -> list[Route]:
    """Return the routes of sign-in."""

    def discovery(call: Call) -> Reply:
        base = f"{call.origin}/{call.names['tenant']}"
        return Reply(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
            }
        )

    def token(call: Call) -> Reply:
        form = call.body if isinstance(call.body, dict) else {}
        issued = None
        if call.names["tenant"] == identity.tenant:
            scope = form.get("scope", "").split(" ")[0]
            issued = identity.issue(form.get("client_id", ""), form.get("client_secret", ""), scope)
        if issued is None:
            text = "AADSTS7000215: Invalid client secret, application or tenant."
            return Reply({"error": "invalid_client", "error_description": text}, 401)
        value, life_s = issued
        body = {"token_type": "Bearer", "expires_in": life_s, "access_token": value}
        return Reply({**body, "ext_expires_in": life_s})

    return [
        Route("GET", "/metadata/endpoints", _metadata, open=True),
        Route("GET", "/{tenant}/v2.0/.well-known/openid-configuration", discovery, open=True),
        Route("POST", "/{tenant}/oauth2/v2.0/token", token, open=True),
    ]


def _metadata(call: Call) -> Reply:
    """Describe this cloud, as ``management.azure.com/metadata/endpoints`` describes Azure's."""
    port = call.origin.rsplit(":", 1)[1]
    return Reply(
        [
            {
                "name": f"Emulator{port}",
                "portal": call.origin,
                "resourceManager": call.origin,
                "authentication": {
                    "loginEndpoint": call.origin,
                    "audiences": [call.origin],
                    "tenant": "common",
                    "identityProvider": "AAD",
                },
                "suffixes": {"storage": "localhost"},
            }
        ]
    )
