"""One tracking store and experiment: runs begin, are found, and always end with a status."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.entities import Run as MlflowRun
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.processes import Process, this_process
from mlflow_phi3.tracking.creation import make_whole
from mlflow_phi3.tracking.missing import asking, briefly, is_missing, unless_missing
from mlflow_phi3.tracking.run import Pace, Run, Status
from mlflow_phi3.tracking.signals import as_ordered
from mlflow_phi3.tracking.sqlite import SCHEME, write_ahead
from mlflow_phi3.tracking.tags import JOB_TAG
from mlflow_phi3.tracking.transactions import observe_transactions
from mlflow_phi3.tracking.uris import absolute_uri

STAGE = "phi3.stage"
ERROR = "phi3.error"
PROCESS = "phi3.process"
"""Tag of a run that a block of :meth:`Tracker.stage` is around: which process."""
# What MLflow calls a run that nobody named: "bright-crane-123".
_RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")


@dataclass(frozen=True, slots=True)
class Tracker:
    """One tracking store and one experiment in it."""

    client: MlflowClient
    uri: str
    experiment_id: str
    pace: Pace = field(default_factory=Pace, repr=False)

    def start(
        self,
        name: str,
        *,
        stage: str,
        parent: Run | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> Run:
        """Create a run that is RUNNING; a child of ``parent`` where one is given."""
        all_tags = {STAGE: stage, **{key: str(value) for key, value in (tags or {}).items()}}
        if parent is not None:
            all_tags[MLFLOW_PARENT_RUN_ID] = parent.run_id
        run = self.client.create_run(self.experiment_id, tags=all_tags, run_name=name)
        return self.handle(run)

    def resume(self, run_id: str, *, name: str | None = None) -> Run:
        """Take up an existing run and set it RUNNING; named ``name`` if nobody named it."""
        found = self.client.get_run(run_id).info.run_name or ""
        new_name = name if _RANDOM_NAME.fullmatch(found) else None
        self.client.update_run(run_id, status="RUNNING", name=new_name)
        return self.get(run_id)

    def experiment_name(self, experiment_id: str) -> str:
        """What an experiment of the store is called."""
        return str(self.client.get_experiment(experiment_id).name)

    def get(self, run_id: str) -> Run:
        """A handle to an existing run, its status untouched."""
        return self.handle(self.client.get_run(run_id))

    def locate(self, run_ids: Iterable[str]) -> str | None:
        """The experiment of the first of some runs that is not deleted.

        Returns:
            Its id; empty where all are deleted, None where the store has none of them.
        """
        place = None
        for run_id in run_ids:
            with unless_missing():  # deleted for good
                info = self.client.get_run(run_id).info
                if info.lifecycle_stage == LifecycleStage.ACTIVE:
                    return str(info.experiment_id)
                place = ""
        return place

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        stage: str,
        parent: Run | None = None,
        tags: Mapping[str, object] | None = None,
        run_id: str | None = None,
        status: Status = "FINISHED",
    ) -> Iterator[Run]:
        """A run around a block: ``status`` at its end, FAILED on an error, KILLED on a stop."""
        tags = {**(tags or {}), PROCESS: this_process()}
        with asking(self.uri):
            if run_id:
                run = self.resume(run_id, name=name)
                run.set_tags({STAGE: stage, **tags})
            else:
                run = self.start(name, stage=stage, parent=parent, tags=tags)
        try:
            yield run
            run.end(status)
        except BaseException as error:
            _end_badly(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", error)
            raise

    def children(self, parent_id: str) -> list[MlflowRun]:
        """The child runs of a run, oldest first."""
        return self.find({MLFLOW_PARENT_RUN_ID: parent_id})

    def close_abandoned(self) -> list[str]:
        """End the runs whose process was killed on this machine, and those around them; their ids.

        Left alone are runs that follow a job in Azure, which goes on, and those around trials that
        are RUNNING: the study knows what becomes of them.
        """
        query = f"attributes.status = 'RUNNING' AND tags.`{PROCESS}` != ''"
        closed: list[str] = []
        for found in self._search(query, order="attributes.start_time DESC"):
            process = Process.parse(found.data.tags[PROCESS])
            if JOB_TAG in found.data.tags or not process.is_visible() or process.runs():
                continue
            children = self.children(found.info.run_id)
            if not any(child.info.status == "RUNNING" for child in children):
                closed += self.close_outwards(found.info.run_id, {ERROR: "its process was killed"})
        return closed

    def close_outwards(self, run_id: str, tags: Mapping[str, object]) -> list[str]:
        """End a run, and those around it that are RUNNING, as KILLED with ``tags``; their ids."""
        closed: list[str] = []
        while run_id:
            found = self.client.get_run(run_id)
            if found.info.status == "RUNNING":
                run = self.handle(found)
                run.set_tags(tags)
                run.end("KILLED")
                closed.append(run_id)
            run_id = found.data.tags.get(MLFLOW_PARENT_RUN_ID, "")
        return closed

    def find(self, tags: Mapping[str, object], *, status: str = "") -> list[MlflowRun]:
        """The runs that carry all of ``tags``, oldest first; of one ``status`` where given."""
        wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if status:
            wanted.append(f"attributes.status = '{status}'")
        return self._search(" AND ".join(wanted), order="attributes.start_time ASC")

    def find_tagged(self, tag: str) -> list[MlflowRun]:
        """The runs that carry a tag, whatever it says, oldest first."""
        return self._search(f"tags.`{tag}` != ''", order="attributes.start_time ASC")

    def latest(self, stage: str, *, where: str, without: str = "") -> MlflowRun:
        """The newest FINISHED run of a stage.

        Args:
            stage: As the tag ``phi3.stage``.
            where: The parameter that could name another run, for messages.
            without: A tag that it must not carry.

        Raises:
            UsageError: There is none in this experiment.
        """
        query = f"tags.`{STAGE}` = '{stage}' AND attributes.status = 'FINISHED'"
        newest = self._search(
            query, order="attributes.start_time DESC", most=None if without else 1
        )
        found = next((run for run in newest if without not in run.data.tags), None)
        if found is None:
            raise UsageError(
                "PHI3-U020",
                f"no finished {stage} run in this experiment",
                where=where,
                fix=f"run the {stage} step first, or name its run",
            )
        return found

    def _search(self, query: str, *, order: str, most: int | None = None) -> list[MlflowRun]:
        runs: list[MlflowRun] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                query,
                max_results=most or 1000,
                order_by=[order],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token or (most is not None and len(runs) >= most):
                return runs

    def handle(self, run: MlflowRun) -> Run:
        """A handle to a run that was read."""
        info, name = run.info, run.info.run_name or ""
        return Run(self.client, info.run_id, info.experiment_id, name, info.artifact_uri, self.pace)


def open_tracker(*, uri: str | None = None, experiment: str | None = None) -> Tracker:
    """Connect to the tracking store that MLflow itself would use, its URI made absolute.

    Args:
        uri: Tracking URI; None takes ``MLFLOW_TRACKING_URI``, else MLflow's default.
        experiment: Name; None takes the experiment of ``mlflow run``, else MLflow's default.

    Raises:
        PreflightError: The store does not answer, or refuses, or has no such experiment.
    """
    given = uri or mlflow.get_tracking_uri()
    found = absolute_uri(given)
    # A server's client would ask for each run that ends, and print two lines of addresses.
    os.environ.setdefault(MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.name, "true")
    mlflow.set_tracking_uri(found)
    observe_transactions()
    with asking(found, given=given):
        make_whole(found, _make_store)
        client = MlflowClient(tracking_uri=found)
        if found.startswith(SCHEME):
            write_ahead(client._tracking_client.store.engine)  # noqa: SLF001 - MLflow takes no options of SQLAlchemy's
        return Tracker(client, found, _find_experiment(client, experiment))


def _make_store(uri: str) -> None:
    """Let MLflow make its tables, and the default experiment, in a database."""
    store = MlflowClient(tracking_uri=uri)._tracking_client.store  # noqa: SLF001 - as above
    store.engine.dispose()


def _find_experiment(client: MlflowClient, name: str | None) -> str:
    """The id of the experiment ``name``, which is made if need be; asked of the store itself."""
    if name is not None:
        known = client.get_experiment_by_name(name)
        return str(known.experiment_id if known else client.create_experiment(name))
    try:
        experiment_id = str(mlflow.tracking.fluent._get_experiment_id())  # noqa: SLF001 - how MLflow reads MLFLOW_EXPERIMENT_ID and _NAME
        stage = client.get_experiment(experiment_id).lifecycle_stage
    except MlflowException as missing:
        if not is_missing(missing):
            raise
        raise _no_experiment(str(missing).splitlines()[0]) from missing
    if stage != LifecycleStage.ACTIVE:
        raise _no_experiment(f"the experiment {experiment_id} is {stage}")
    return experiment_id


def _no_experiment(problem: str) -> PreflightError:
    return PreflightError(
        "PHI3-P087",
        problem,
        where="MLflow's experiment",
        fix="let MLFLOW_EXPERIMENT_NAME, or MLFLOW_EXPERIMENT_ID, name one that is there",
    )


def close_orphan(run_id: str, status: Status) -> None:
    """Close a run that is RUNNING though nobody will: whoever started it is gone.

    Raises:
        PreflightError: The store does not answer, or has no such run.
    """
    with briefly(), asking(mlflow.get_tracking_uri()):
        client = MlflowClient()
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, status)


def _end_badly(run: Run, status: Status, error: BaseException) -> None:
    """Close a run whose block did not end, without hiding why it did not."""
    # Who was told to stop, or has lost the store, does not wait for it for minutes.
    hurry = isinstance(error, KeyboardInterrupt | PreflightError)
    with briefly() if hurry else nullcontext():
        try:
            run.flush()
        except Exception as refused:  # noqa: BLE001 - the first error is the one to show
            run.abandon()
            error.add_note(f"and what run {run.run_id} had still to write is lost: {refused}")
        try:
            told = as_ordered(error)
            run.set_tags({ERROR: f"{type(told).__name__}: {told}"[:5000]}, later=True)
            run.end(status)
        except Exception as second:  # noqa: BLE001 - as above
            error.add_note(f"and run {run.run_id} could not be closed as {status}: {second}")
