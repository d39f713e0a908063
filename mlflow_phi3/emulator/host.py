"""Puts the services together in one process: the only file that knows them all."""

import contextlib
import datetime as dt
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import TextIO

import httpx
import uvicorn

from mlflow_phi3.emulator.assets.routes import routes as asset_routes
from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.authorization.routes import routes as permission_routes
from mlflow_phi3.emulator.authorization.state import Permissions
from mlflow_phi3.emulator.certificates import save_certificates
from mlflow_phi3.emulator.endpoints.fleet import Fleet
from mlflow_phi3.emulator.endpoints.routes import routes as endpoint_routes
from mlflow_phi3.emulator.endpoints.scoring import Scoring
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.faults import Faults
from mlflow_phi3.emulator.finetuning.routes import routes as job_routes
from mlflow_phi3.emulator.finetuning.state import Jobs
from mlflow_phi3.emulator.finetuning.trainer import Trainer
from mlflow_phi3.emulator.identity.routes import routes as identity_routes
from mlflow_phi3.emulator.identity.state import Identity
from mlflow_phi3.emulator.journal import Journal
from mlflow_phi3.emulator.metrics.collector import Collector
from mlflow_phi3.emulator.metrics.metered import Metered
from mlflow_phi3.emulator.metrics.routes import routes as metric_routes
from mlflow_phi3.emulator.metrics.state import Meter
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.proxy import IDLE_S
from mlflow_phi3.emulator.registry.routes import routes as registry_routes
from mlflow_phi3.emulator.resources.routes import routes as resource_routes
from mlflow_phi3.emulator.resources.state import Resources
from mlflow_phi3.emulator.router import WORKSPACE as WORKSPACE_PATH
from mlflow_phi3.emulator.router import Router
from mlflow_phi3.emulator.server import Application
from mlflow_phi3.emulator.serverless.routes import routes as serverless_routes
from mlflow_phi3.emulator.serverless.scoring import ServerlessScoring
from mlflow_phi3.emulator.serverless.state import Serverless
from mlflow_phi3.emulator.settings import (
    CLIENT,
    GROUP,
    LOCATION,
    SUBSCRIPTION,
    TENANT,
    WORKSPACE,
    Settings,
    save_whole,
)
from mlflow_phi3.emulator.storage.azurite import ACCOUNT, Azurite, account_key, install_azurite
from mlflow_phi3.emulator.storage.datastore import Datastore
from mlflow_phi3.emulator.storage.service import BlobService
from mlflow_phi3.emulator.store import Store
from mlflow_phi3.emulator.subscription.routes import routes as subscription_routes
from mlflow_phi3.emulator.subscription.state import Subscription
from mlflow_phi3.errors import PreflightError


def serve(settings: Settings) -> None:
    """Run the emulator until the process is told to stop.

    Raises:
        PreflightError: Another one runs in this home, it holds files of others, or storage cannot
            be started.
    """
    settings.check_home()
    os.umask(0o077)  # the home holds secrets
    settings.home.mkdir(parents=True, exist_ok=True)
    with settings.lock.open("w") as lock:
        _hold(lock, settings)
        save_certificates(settings.home, dt.datetime.now(dt.UTC))
        # A signal may come while the parts are being started: SystemExit unwinds them.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            with _listen(settings) as listener, _application(settings, listener) as application:
                _run(settings, listener, application)
        finally:
            settings.record.unlink(missing_ok=True)


def _hold(lock: TextIO, settings: Settings) -> None:
    """Take the home for this process; whoever looks whether it is held holds it for a moment."""
    for last in (False, False, False, True):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            if last:
                raise PreflightError(
                    "PHI3-P705",
                    "an emulator already runs with this home",
                    where=str(settings.home),
                    fix="mlflow-phi3 emulator status",
                ) from held
            time.sleep(0.1)
        else:
            return


@contextlib.contextmanager
def _application(settings: Settings, listener: socket.socket) -> Iterator[Application]:
    """Yield the application, all of its services at work; they end with the context."""
    address = f"https://localhost:{listener.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        datastore = _open_datastore(settings, stack)
        store = Store(settings.home / "state.sqlite")
        stack.callback(store.close)
        faults, journal = Faults(), Journal()
        fleet = Fleet(settings.home / "deployments", datastore)
        stack.callback(fleet.close)
        operations = Operations(store, faults)
        stack.callback(operations.stop)
        identity = Identity(TENANT, CLIENT, settings.secret("client"), settings.secret("signing"))
        permissions = Permissions(store, CLIENT, f"/subscriptions/{SUBSCRIPTION}")
        # The account "localhost:PORT/name#" lets the SDK's https://{account}.blob.{suffix} come
        # here: what follows lands in the fragment of the URL.
        assets = Assets(store, account=f"{address.removeprefix('https://')}/{ACCOUNT}#")
        resources = Resources(store, assets)
        _create_project(assets, resources, store)
        online = Endpoints(store, operations, fleet, base=f"{address}/online")
        serverless = Serverless(store, operations, fleet, base=f"{address}/serverless")
        jobs = Jobs(store, assets, faults, Trainer(settings.home / "jobs", datastore))
        stack.callback(jobs.stop)
        meter = Meter(settings.home / "calls.sqlite", dt.datetime.now(dt.UTC))
        stack.callback(meter.close)
        for service in (online, serverless, jobs):
            service.resume()
        client = _open_client()
        scoring, collector = Scoring(online, fleet, client), Collector(store, datastore)
        yield Application(
            router=Router(
                [
                    *identity_routes(identity),
                    *permission_routes(permissions),
                    *faults.routes(),
                    *journal.routes(),
                    *operations.routes(),
                    *asset_routes(assets, store, datastore),
                    *subscription_routes(Subscription(store, SUBSCRIPTION)),
                    *resource_routes(resources, store),
                    *metric_routes(meter),
                    *serverless_routes(serverless, store, operations),
                    *endpoint_routes(online, store, operations),
                    *job_routes(jobs, store),
                    *registry_routes(),
                ]
            ),
            store=store,
            identity=identity,
            permissions=permissions,
            faults=faults,
            journal=journal,
            services={
                "online": Metered(scoring, meter, collector),
                "serverless": ServerlessScoring(serverless, fleet, client),
                ACCOUNT: BlobService(datastore, identity, client),
            },
        )


def _open_client() -> httpx.AsyncClient:
    """What reaches the processes behind the port, however many requests are on their way."""
    limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE_S)
    return httpx.AsyncClient(trust_env=False, timeout=600.0, limits=limits)


def _open_datastore(settings: Settings, stack: contextlib.ExitStack) -> Datastore:
    """Start storage, which the stack ends."""
    key = account_key(settings.secret("storage"))
    azurite = Azurite(install_azurite(settings.cache), settings.home / "blobs", key)
    stack.callback(azurite.stop)
    datastore = Datastore(azurite.url, key)
    datastore.create()
    return datastore


def _create_project(assets: Assets, resources: Resources, store: Store) -> None:
    """Create the project that is there from the beginning, in a hub as every project."""
    if store.get(group := f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}") is None:
        resources.put_group(group, LOCATION)
    hub, project = (
        WORKSPACE_PATH.format(subscription=SUBSCRIPTION, group=GROUP, workspace=name)
        for name in (f"{WORKSPACE}-hub", WORKSPACE)
    )
    assets.create_workspace(hub, location=LOCATION, kind="Hub")
    within = {"hubResourceId": hub}
    assets.create_workspace(project, location=LOCATION, kind="Project", properties=within)


def _run(settings: Settings, listener: socket.socket, application: Application) -> None:
    config = uvicorn.Config(
        application,
        ssl_certfile=str(settings.home / "server.pem"),
        ssl_keyfile=str(settings.home / "server.key"),
        lifespan="off",
        ws="none",
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    port = listener.getsockname()[1]
    record = {"pid": os.getpid(), "port": port, "url": f"https://localhost:{port}"}
    save_whole(settings.record, json.dumps(record).encode())
    save_whole(settings.home / "port", str(port).encode())
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again at its end
        uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    """Return a listening socket, on the port of last time where that is still free."""
    last = settings.home / "port"
    wanted = int(last.read_text()) if last.exists() else 0
    for port in (wanted, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen(256)
        return listener
    raise PreflightError("PHI3-P706", "no loopback port can be listened on")
