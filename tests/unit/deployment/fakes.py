"""A service in memory that keeps Azure's rules on traffic, and what is deployed to it."""

from dataclasses import replace

from mlflow_phi3.azure.online import Deployment
from mlflow_phi3.azure.operation import CHANGING
from mlflow_phi3.deployment.plan import Wanted
from mlflow_phi3.errors import AzureError


def make_deployment(name, model, **settings):
    """A deployment on one machine; nothing of it is set beside what is named."""
    plain = {"instance_type": "A", "instance_count": 1, "request_timeout_s": 90}
    empty = {"tags": {}, "variables": {}, "collect_data": False, "kept": {}}
    return Deployment(name, model, **plain | empty | settings)


def make_wanted(**told):
    """What is wanted of the service chat, where nothing is told beside what is named."""
    untold = dict.fromkeys(
        (
            "instance_type",
            "instance_count",
            "traffic",
            "variables",
            "safety",
            "request_timeout_s",
            "collect_data",
        )
    )
    plain = {"endpoint": "chat", "deployment": "", "default_instance_type": "A"}
    return Wanted(**plain | untold | {"tags": {}, "verify": True} | told)


class MemoryService:
    """Fulfils :class:`mlflow_phi3.deployment.rollout.Service`; faults by name of the method."""

    def __init__(self):
        self.endpoints, self.deployments, self.calls = {}, {}, []
        self.faults = {}
        self.late_faults = []  # by call of put_endpoint: raised once it is done

    def _call(self, name, *args):
        self.calls.append((name, *args))
        waiting = self.faults.get(name)
        if waiting:
            fault = waiting.pop(0)
            if fault is not None:
                raise fault

    def get_endpoint(self, name):
        return self.endpoints.get(name)

    def list_endpoints(self):
        return list(self.endpoints.values())

    def list_deployments(self, endpoint):
        return list(self.deployments.get(endpoint, {}).values())

    def get_logs(self, endpoint, name, lines):
        return f"last words of {name}"

    def put_endpoint(self, endpoint):
        self._call("put_endpoint", endpoint.name, dict(endpoint.traffic))
        for name in endpoint.traffic:
            assert name in self.deployments.get(endpoint.name, {}), "traffic to nowhere"
        assert sum(endpoint.traffic.values()) in {0, 100}
        self.endpoints[endpoint.name] = replace(endpoint, state="Succeeded", scoring_uri="u")
        fault = self.late_faults.pop(0) if self.late_faults else None
        if fault is not None:
            raise fault

    def delete_endpoint(self, name):
        self._call("delete_endpoint", name)
        self.endpoints.pop(name, None)
        self.deployments.pop(name, None)

    def put_deployment(self, endpoint, deployment):
        self.begin_deployment(endpoint, deployment)
        self.deployments[endpoint][deployment.name] = replace(deployment, state="Succeeded")

    def begin_deployment(self, endpoint, deployment):
        self._call("put_deployment", endpoint, deployment.name)
        kept = self.deployments.setdefault(endpoint, {})
        kept[deployment.name] = replace(deployment, state="Creating")

    def delete_deployment(self, endpoint, name):
        self._call("delete_deployment", endpoint, name)
        assert not self.endpoints[endpoint].traffic.get(name), "it has traffic"
        self.deployments.get(endpoint, {}).pop(name, None)

    def renewed(self):
        return self

    def await_idle(self, endpoint):
        for name, found in self.deployments.get(endpoint, {}).items():
            if found.state in CHANGING:
                self.deployments[endpoint][name] = replace(found, state="Succeeded")


def alter(service, name, **changes):
    """Change a deployment; a new one is as blue."""
    found = service.deployments["chat"]
    found[name] = replace(found.get(name, found["blue"]), name=name, **changes)


def alter_endpoint(service, **changes):
    service.endpoints["chat"] = replace(service.endpoints["chat"], **changes)


def refused(status=500):
    return AzureError("PHI3-A701", "a bad day", status=status)


class MemoryServerless:
    """Keeps one endpoint; ``fault`` is raised by the next put, before or after it is done."""

    def __init__(self, known=None):
        self.known = known and replace(known, state="Succeeded", uri="u")
        self.fault, self.late, self.puts = None, False, 0
        self.stuck = None  # raised by each delete

    def get(self, _name):
        return self.known

    await_idle = get

    def list_endpoints(self):
        return [self.known] if self.known else []

    def renewed(self):
        return self

    def put(self, wanted, *, wait=True):
        self.puts += 1
        fault, self.fault = self.fault, None
        if fault is not None and not self.late:
            raise fault
        self.known = replace(wanted, state="Succeeded" if wait else "Creating", uri="u")
        if fault is not None:
            raise fault

    def delete(self, _name):
        if self.stuck is not None:
            raise self.stuck
        self.known = None
