"""Requests about the subscription."""

from mlflow_phi3.emulator.router import Call, Reply, Route
from mlflow_phi3.emulator.subscription.state import Subscription

_ONE = "/subscriptions/{subscription}"
_PLACE = _ONE + "/providers/Microsoft.MachineLearningServices/locations/{location}"


def routes(subscription: Subscription) -> list[Route]:
    """Return the routes of a subscription."""

    def get(call: Call) -> Reply:
        return Reply(subscription.get(call.names["subscription"]))

    def locations(call: Call) -> Reply:
        return Reply({"value": subscription.locations(call.names["subscription"])})

    def set_state(call: Call) -> Reply:
        subscription.set_state(str((call.body or {}).get("state") or "Enabled"))
        return Reply(status=204)

    def usages(call: Call) -> Reply:
        names = call.names
        return Reply({"value": subscription.usages(names["subscription"], names["location"])})

    def sizes(_call: Call) -> Reply:
        return Reply({"value": subscription.sizes()})

    def provider(call: Call) -> Reply:
        names = call.names
        return Reply(subscription.provider(names["subscription"], names["namespace"]))

    def register(call: Call) -> Reply:
        names = call.names
        return Reply(subscription.register(names["subscription"], names["namespace"]))

    def unregister(call: Call) -> Reply:
        names = call.names
        return Reply(subscription.unregister(names["subscription"], names["namespace"]))

    return [
        Route("PUT", "/emulator/subscription", set_state, open=True),
        Route("GET", _ONE, get),
        Route("GET", _ONE + "/locations", locations),
        Route("GET", _PLACE + "/usages", usages),
        Route("GET", _PLACE + "/vmSizes", sizes),
        Route("GET", _ONE + "/providers/{namespace}", provider),
        Route("POST", _ONE + "/providers/{namespace}/register", register),
        Route("POST", _ONE + "/providers/{namespace}/unregister", unregister),
    ]
