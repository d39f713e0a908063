"""Requests about the subscription."""

from mlflow_phi3.emulator.router import Call, Reply, Route
from mlflow_phi3.emulator.subscription.state import Subscription

_ONE = "/subscriptions/{subscription}"
_PLACE = _ONE + "/providers/Microsoft.MachineLearningServices/locations/{location}"
_PROVIDER = _ONE + "/providers/{namespace}"


def routes(subscription: Subscription) -> list[Route]:
    """Return the routes of a subscription."""

    def locations(call: Call) -> Reply:
        return Reply({"value": subscription.locations(call.names["subscription"])})

    def set_state(call: Call) -> Reply:
        subscription.set_state(str(call.body.get("state") or "Enabled"))
        return Reply(status=204)

    def usages(call: Call) -> Reply:
        return Reply({"value": subscription.usages(call.id, call.names["location"])})

    def register(call: Call) -> Reply:
        return Reply(subscription.set_provider(call.id, "Registered"))

    def unregister(call: Call) -> Reply:
        return Reply(subscription.set_provider(call.id, "NotRegistered"))

    return [
        Route("PUT", "/emulator/subscription", set_state, open=True),
        Route("GET", _ONE, lambda call: Reply(subscription.get(call.names["subscription"]))),
        Route("GET", _ONE + "/locations", locations),
        Route("GET", _PLACE + "/usages", usages),
        Route("GET", _PLACE + "/vmSizes", lambda _call: Reply({"value": subscription.sizes()})),
        Route("GET", _PROVIDER, lambda call: Reply(subscription.provider(call.id))),
        Route("POST", _PROVIDER + "/register", register),
        Route("POST", _PROVIDER + "/unregister", unregister),
    ]
