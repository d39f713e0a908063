"""MLflow's ``azure-foundry`` deployment target: thin; what it does is in ``deployment``.

MLflow wants exactly one client class in this module, ``target_help`` and ``run_local``.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.deployments import PredictionsResponse
from mlflow.deployments import base as mlflow_base
from mlflow.protos.databricks_pb2 import NOT_IMPLEMENTED

from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.endpoints import create_endpoint, update_endpoint
from mlflow_phi3.deployment.help import help_text
from mlflow_phi3.deployment.names import names_of
from mlflow_phi3.errors import Phi3Error, UsageError
from mlflow_phi3.plugins.failures import FoundryException, as_mlflow, as_stopped, is_typed
from mlflow_phi3.tracking.signals import stoppable

Config = Mapping[str, Any]


class AzureFoundryClient(mlflow_base.BaseDeploymentClient):  # type: ignore[misc]  # mlflow's types are not followed
    """Deploys MLflow models to Azure AI Foundry, or to the emulator on this machine.

    Args:
        target_uri: ``azure-foundry``, ``azure-foundry:/<subscription>/<group>/<project>`` or
            ``azure-foundry:/local``.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        with _as_mlflow():
            self._deployer = Deployer(target_uri, told=_tell)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Config | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Deploy a model; see :func:`target_help`.

        Raises:
            MlflowException: It could not be done; what was made is taken back.
        """
        with _as_mlflow(), _told_to_stop():
            _check_flavor(flavor)
            names = names_of(name, endpoint)
            return self._deployer.deploy(names, model_uri, _parsed(config), new=True)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Config | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Take a deployment to another model by blue/green, or change what ``config`` names."""
        with _as_mlflow(), _told_to_stop():
            _check_flavor(flavor)
            names = names_of(name, endpoint)
            return self._deployer.deploy(names, model_uri or "", _parsed(config), new=False)

    def delete_deployment(
        self, name: str, config: Config | None = None, endpoint: str | None = None
    ) -> None:
        """Delete a service, or one deployment of an endpoint; what is gone is no error."""
        with _as_mlflow(), _told_to_stop():
            self._deployer.remove(names_of(name, endpoint), _parsed(config))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return all services, or the deployments of one endpoint."""
        with _as_mlflow():
            if endpoint:
                return self._deployer.managed.list_deployments(endpoint)
            return self._deployer.list_services()

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Return how a service or deployment stands; no keys."""
        with _as_mlflow():
            return self._deployer.describe(names_of(name, endpoint))

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
    ) -> PredictionsResponse:
        """Ask for a prediction: a chat (``{"messages": [...]}``), chats, records or a frame."""
        with _as_mlflow():
            names = names_of(deployment_name, endpoint)
            return PredictionsResponse(self._deployer.callers.predict(names, inputs))

    def predict_stream(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield a chat's answer in parts, in OpenAI's shape of a stream."""
        with _as_mlflow():
            yield from self._deployer.callers.predict_stream(
                names_of(deployment_name, endpoint), inputs
            )

    def explain(
        self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None
    ) -> Any:
        """Refuse: language models have no explanations of this kind.

        Raises:
            MlflowException: Always.
        """
        del df
        raise FoundryException(
            f"PHI3-U740 {deployment_name or endpoint}: explain is not supported: "
            "a chat model has no feature attributions. Fix: use predict.",
            error_code=NOT_IMPLEMENTED,
        )

    def create_endpoint(self, name: str, config: Config | None = None) -> dict[str, Any]:
        """Create an endpoint without deployments; one that exists is left as it is.

        Takes ``ttl_hours``, ``timeout_s``, ``content_safety_connection`` and ``dry_run``.
        """
        with _as_mlflow(), _told_to_stop():
            names = names_of(None, name)
            return create_endpoint(self._deployer, names, dict(config or {}), told=_tell)

    def update_endpoint(self, endpoint: str, config: Config | None = None) -> dict[str, Any]:
        """Change an endpoint's traffic (``{"traffic": "blue=90,green=10"}``) or ``ttl_hours``.

        A deployment whose share grows is asked first, unless ``{"verify": False}`` says otherwise.
        """
        with _as_mlflow(), _told_to_stop():
            return update_endpoint(self._deployer, names_of(None, endpoint), dict(config or {}))

    def delete_endpoint(self, endpoint: str) -> None:
        """Delete an endpoint with its deployments; one that is gone is no error."""
        with _as_mlflow(), _told_to_stop():
            self._deployer.remove(names_of(None, endpoint), DeployConfig())

    def list_endpoints(self) -> list[dict[str, Any]]:
        """Return all endpoints."""
        with _as_mlflow():
            return self._deployer.list_services()

    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """Return how an endpoint stands."""
        with _as_mlflow():
            return self._deployer.describe(names_of(None, endpoint))


def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Config | None = None
) -> None:
    """Serve a model in this process until Ctrl-C; ``config`` takes the server's settings."""
    from mlflow_phi3.workflows.serve import serve_model  # torch, for this alone

    with _as_mlflow():
        _check_flavor(flavor)
        settings = parse_values(ServeConfig, dict(config or {}))
        serve_model(
            model_uri, settings, name=name, told=lambda line: _tell(f"{line}; Ctrl-C ends it")
        )


def target_help() -> str:
    """Return what ``mlflow deployments help`` prints: made from the config's schema."""
    return help_text()


@contextlib.contextmanager
def _as_mlflow() -> Iterator[None]:
    """Turn our errors into MLflow's; our message says all, a second traceback would bury it.

    An order to stop stays one for a program; MLflow's command line ends with its exit code.
    """
    try:
        yield
    except Phi3Error as error:
        raise as_mlflow(error) from None
    except KeyboardInterrupt as order:
        if is_typed():
            raise as_stopped(order) from None
        raise


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Take SIGTERM and SIGHUP as Ctrl-C, or what stays and is billed would not be said.

    Not where the program has an answer of its own to them, or another thread is its main one.
    """
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with stoppable(None):
            yield
    else:
        yield


def _parsed(config: Config | None) -> DeployConfig:
    return parse_values(DeployConfig, dict(config or {}))


def _check_flavor(flavor: str | None) -> None:
    if flavor not in {None, "python_function"}:
        raise UsageError(
            "PHI3-U741",
            f"flavor {flavor!r} is not deployed as such",
            where="--flavor",
            fix="leave it out: models are served as python_function",
        )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command
