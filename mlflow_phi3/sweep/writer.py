"""Writing to a study's storage: what belongs together in one transaction, where the storage can.

Optuna's storages take one fact a call, and its databases make of each call a transaction of its
own, of several statements. A trial is proposed, noted, reported and ended by a dozen of them, which
was a third of what a study costs beside its training. :class:`RowWriter` writes the same rows with
a few statements in four transactions; :class:`PlainWriter` makes the calls one by one, for every
storage that has no such rows.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import UniqueConstraint, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

logger = logging.getLogger(__name__)
_PLAINLY = {"synchronize_session": False}  # the session has read nothing yet
_INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class TrialWriter(Protocol):
    """Writes to trials; whatever one call is given is known to the storage when it returns.

    ``note``, ``report`` and ``finish`` raise :exc:`optuna.exceptions.UpdateFinishedTrialError` for
    a trial that is finished, and write nothing then.
    """

    def create(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        """Write a trial that has told nothing yet; what the storage calls it, and its number."""

    def take(self, trial_id: int, facts: Mapping[str, object]) -> bool:
        """Let a waiting trial run, with these facts; False when it does not wait any more."""

    def release(self, trial_id: int, facts: Mapping[str, object]) -> bool:
        """Let a running trial wait; False when it does not run any more, or not with ``facts``."""

    def note(self, facts: Mapping[int, Mapping[str, object]]) -> None:
        """Keep facts about trials, by trial and name."""

    def report(self, trial_id: int, number: int, loss: float) -> None:
        """Keep the loss of an evaluation."""

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        facts: Mapping[str, object],
    ) -> None:
        """Keep the last facts about a trial, and its end."""


def build_writer(storage: BaseStorage) -> TrialWriter:
    """The writer for a storage; the plain one where Optuna's tables are not those we know."""
    rows = getattr(storage, "_backend", storage)  # Optuna puts a cache before its databases
    if isinstance(rows, RDBStorage):
        try:
            return RowWriter(rows)
        except (ImportError, AttributeError, LookupError) as error:  # another Optuna, or MySQL
            logger.info("each fact of a trial is a transaction of its own: %s", error)
    return PlainWriter(storage)


class PlainWriter:
    """One call a fact; a driver that is killed in between has written the first of them.

    Args:
        storage: Any of Optuna's.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def create(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        """Write a whole new trial: Optuna's storages do that at once."""
        trial_id = self._storage.create_new_trial(study_id, trial)
        return int(trial_id), int(self._storage.get_trial_number_from_id(trial_id))

    def take(self, trial_id: int, facts: Mapping[str, object]) -> bool:
        """Let it run, then keep the facts."""
        try:
            if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return False
        except UpdateFinishedTrialError:
            return False
        self.note({trial_id: facts})
        return True

    def release(self, trial_id: int, facts: Mapping[str, object]) -> bool:
        """Look, then let it wait."""
        trial = self._storage.get_trial(trial_id)
        if trial.state is not TrialState.RUNNING or not _holds(trial.user_attrs, facts):
            return False
        try:
            self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
        except UpdateFinishedTrialError:  # in between
            return False
        return True

    def note(self, facts: Mapping[int, Mapping[str, object]]) -> None:
        """Keep facts about trials."""
        for trial_id, about in facts.items():
            for name, value in about.items():
                self._storage.set_trial_user_attr(trial_id, name, value)

    def report(self, trial_id: int, number: int, loss: float) -> None:
        """Keep the loss of an evaluation."""
        self._storage.set_trial_intermediate_value(trial_id, number, loss)

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        facts: Mapping[str, object],
    ) -> None:
        """Keep the facts, then the end: what has ended takes no more facts."""
        self.note({trial_id: facts})
        self._storage.set_trial_state_values(trial_id, state, values)


class RowWriter:
    """One transaction a call, in SQLite and PostgreSQL.

    The rows are those that Optuna's own calls write (``optuna/storages/_rdb/storage.py``), without
    their readings in between: the distribution of each parameter beside that of an earlier trial,
    which :func:`mlflow_phi3.sweep.study.open_study` has compared for the whole study; and the trial
    before each fact.

    Args:
        storage: Optuna's, without its cache.

    Raises:
        ImportError: Optuna's tables are elsewhere.
        AttributeError: They have other names.
        LookupError: They have other columns, or the database is neither of the two.
    """

    def __init__(self, storage: RDBStorage) -> None:
        from optuna.storages._rdb import models
        from optuna.storages._rdb.storage import _create_scoped_session

        self._plain = PlainWriter(storage)
        self._transaction = partial(_create_scoped_session, storage.scoped_session)
        self._trial = models.TrialModel
        self._find_study = models.StudyModel.find_or_raise_by_id
        self._find_trial = models.TrialModel.find_or_raise_by_id
        self._count_before = models.TrialModel.count_past_trials
        self._store_value = models.TrialValueModel.value_to_stored_repr
        self._store_loss = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        self._check_unfinished = storage.check_trial_is_updatable
        # SQLite knows no lock of a row; its first insertion locks all, which is as good.
        self._locks_rows = storage.engine.name != "sqlite"
        self._insert = _INSERTS[storage.engine.name]
        self._check_columns(
            self._trial, "number", "study_id", "state", "datetime_start", "datetime_complete"
        )
        self._parameters = self._upsert(
            models.TrialParamModel, ("param_name",), ("param_value", "distribution_json")
        )
        self._attributes = self._upsert(models.TrialUserAttributeModel, ("key",), ("value_json",))
        self._system = self._upsert(models.TrialSystemAttributeModel, ("key",), ("value_json",))
        self._values = self._upsert(models.TrialValueModel, ("objective",), ("value", "value_type"))
        self._losses = self._upsert(
            models.TrialIntermediateValueModel,
            ("step",),
            ("intermediate_value", "intermediate_value_type"),
        )

    def create(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        """Write a new trial whole, or nothing of it."""
        try:
            return self._create(study_id, trial)
        except StorageInternalError:  # a deadlock, say: Optuna tries again, and so for longer
            return self._plain.create(study_id, trial)

    def take(self, trial_id: int, facts: Mapping[str, object]) -> bool:
        """Let a waiting trial run, signed."""
        with self._transaction() as session:
            trial = self._locked(session, trial_id)
            if trial.state is not TrialState.WAITING:
                return False
            trial.state, trial.datetime_start = TrialState.RUNNING, datetime.now()  # noqa: DTZ005 - as Optuna has it
            self._write(session, self._attributes, [_fact(trial_id, *f) for f in facts.items()])
        return True

    def release(self, trial_id: int, facts: Mapping[str, object]) -> bool:
        """Let a running trial wait that nobody has signed meanwhile."""
        with self._transaction() as session:
            trial = self._locked(session, trial_id)
            known = {fact.key: json.loads(fact.value_json) for fact in trial.user_attributes}
            if trial.state is not TrialState.RUNNING or not _holds(known, facts):
                return False
            trial.state = TrialState.WAITING
        return True

    def note(self, facts: Mapping[int, Mapping[str, object]]) -> None:
        """Keep facts about trials."""
        with self._transaction() as session:
            for trial_id in facts:
                self._unfinished(session, trial_id)
            self._write(
                session, self._attributes, [_fact(i, *f) for i in facts for f in facts[i].items()]
            )

    def report(self, trial_id: int, number: int, loss: float) -> None:
        """Keep the loss of an evaluation."""
        value, kind = self._store_loss(loss)
        row = {"intermediate_value": value, "intermediate_value_type": kind}
        with self._transaction() as session:
            self._unfinished(session, trial_id)
            self._write(session, self._losses, [{"trial_id": trial_id, "step": number, **row}])

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        facts: Mapping[str, object],
    ) -> None:
        """Keep the last facts about a trial, and its end."""
        with self._transaction() as session:
            trial = self._unfinished(session, trial_id)
            self._write(session, self._attributes, [_fact(trial_id, *f) for f in facts.items()])
            self._write(session, self._values, self._value_rows(trial_id, values))
            trial.state, trial.datetime_complete = state, datetime.now()  # noqa: DTZ005 - as Optuna has it

    # -- below -------------------------------------------------------------------------------

    def _create(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        with self._transaction() as session:
            if self._locks_rows:  # others count too
                self._find_study(study_id, session, for_update=True)
            row = self._trial(
                study_id=study_id,
                number=None,
                state=trial.state,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
            )
            session.add(row)
            session.flush()
            trial_id = int(row.trial_id)
            self._write(session, self._parameters, _parameter_rows(trial_id, trial))
            for statement, facts in (
                (self._attributes, trial.user_attrs),
                (self._system, trial.system_attrs),
            ):
                self._write(session, statement, [_fact(trial_id, *f) for f in facts.items()])
            number = int(self._count_before(row, session))
            row.number = number
        return trial_id, number

    def _locked(self, session: Session, trial_id: int) -> Any:
        """The trial as it is now, and stays until the transaction ends.

        A writing that changes nothing: in SQLite only that keeps others from writing in between.
        """
        row = update(self._trial).where(self._trial.trial_id == trial_id)
        session.execute(row.values(state=self._trial.state).execution_options(**_PLAINLY))
        return self._find_trial(trial_id, session)

    def _unfinished(self, session: Session, trial_id: int) -> Any:
        """The trial's row, locked until the transaction ends."""
        trial = self._find_trial(trial_id, session, for_update=True)
        self._check_unfinished(trial_id, trial.state)
        return trial

    def _value_rows(self, trial_id: int, values: Iterable[float] | None) -> list[dict[str, object]]:
        stored = [self._store_value(value) for value in values or ()]
        return [
            {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
            for objective, (value, kind) in enumerate(stored)
        ]

    def _upsert(self, model: Any, key: Sequence[str], content: Sequence[str]) -> Any:
        """A statement that inserts rows of a trial, and overwrites those that are there."""
        self._check_columns(model, "trial_id", *key, *content)
        unique = [
            set(c.columns.keys())
            for c in model.__table__.constraints
            if isinstance(c, UniqueConstraint)
        ]
        if {"trial_id", *key} not in unique:
            raise LookupError(f"{model.__tablename__} has keys {unique}")
        statement = self._insert(model.__table__)
        return statement.on_conflict_do_update(
            index_elements=["trial_id", *key],
            set_={name: statement.excluded[name] for name in content},
        )

    @staticmethod
    def _check_columns(model: Any, *names: str) -> None:
        """Refuse tables in which something else would have to be filled."""
        identity = model.__table__.primary_key.columns.keys()
        found = set(model.__table__.columns.keys())
        if len(identity) != 1 or found != {*identity, *names}:
            raise LookupError(f"{model.__tablename__} has columns {sorted(found)}")

    @staticmethod
    def _write(session: Session, statement: Any, rows: Sequence[Mapping[str, object]]) -> None:
        if rows:
            session.execute(statement, rows)


def _holds(known: Mapping[str, object], facts: Mapping[str, object]) -> bool:
    return all(known.get(name) == value for name, value in facts.items())


def _fact(trial_id: int, name: str, value: object) -> dict[str, object]:
    return {"trial_id": trial_id, "key": name, "value_json": json.dumps(value)}


def _parameter_rows(trial_id: int, trial: FrozenTrial) -> list[dict[str, object]]:
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in trial.distributions.items()
    ]
