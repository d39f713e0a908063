"""Each remote change of each kind of rollout, times each way it can go wrong; then run again."""

from dataclasses import replace

import pytest

from mlflow_phi3.deployment.plan import plan_deployment
from mlflow_phi3.deployment.rollout import get_current, roll_out
from mlflow_phi3.errors import AzureError, GateError
from tests.unit.deployment.fakes import make_wanted

ONE, TWO, THREE = (f"/m/chat/versions/{number}" for number in (1, 2, 3))
CHANGES = ("put_endpoint", "delete_endpoint", "put_deployment", "delete_deployment")
CASES = {
    "first": ([], make_wanted(model=ONE)),
    "second": ([ONE], make_wanted(model=TWO)),
    "canary": ([ONE], make_wanted(model=TWO, traffic=10)),
    "third": ([ONE, TWO], make_wanted(model=THREE)),
    "over a canary": ([ONE, (TWO, 10)], make_wanted(model=THREE)),
    "carried on": ([ONE, (TWO, 10)], make_wanted(model=TWO, traffic=60, instance_count=2)),
    "finished": ([ONE, (TWO, 60)], make_wanted(model=TWO, keep_previous=False)),
    "aborted": ([ONE, (TWO, 10)], make_wanted(model=ONE)),
    "alone": ([ONE], make_wanted(model=TWO, keep_previous=False)),
    "scaled": ([ONE], make_wanted(model=ONE, instance_count=3)),
}


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Faulty:
    """A service whose n-th change goes wrong: before or after it is done."""

    def __init__(self, service, number, fault, *, late):
        self._service, self._number, self._fault, self._late = service, number, fault, late
        self.changes = 0

    def __getattr__(self, name):
        real = getattr(self._service, name)
        if name not in CHANGES:
            return real

        def change(*args, **options):
            self.changes += 1
            hit = self.changes == self._number
            if hit and not self._late:
                raise self._fault
            real(*args, **options)
            if hit:
                raise self._fault

        return change


def deploy(service, wanted, check=lambda _endpoint, _name: None):
    plan = plan_deployment(get_current(service, "chat"), wanted)
    roll_out(plan, service, check, told=lambda _line: None)


def begun(service, steps):
    for step in steps:
        model, traffic = step if isinstance(step, tuple) else (step, None)
        deploy(service, make_wanted(model=model, traffic=traffic))


def shape(service):
    """What users meet: the share of each model, and whatever is billed."""
    endpoint = service.endpoints.get("chat")
    running = {name: d.model for name, d in service.deployments.get("chat", {}).items()}
    traffic = {running[name]: share for name, share in endpoint.traffic.items()} if endpoint else {}
    assert sum(traffic.values()) in {0, 100}
    machines = sum(d.instance_count for d in service.deployments.get("chat", {}).values())
    return traffic, sorted(running.values()), machines


@pytest.fixture
def empty(service):
    return type(service)


@pytest.mark.parametrize("late", [False, True], ids=["refused", "done-then-failed"])
@pytest.mark.parametrize("case", CASES)
def test_one_failed_change_keeps_users_served_and_a_second_run_completes(case, late, empty):
    steps, wanted = CASES[case]
    good = empty()
    begun(good, steps)
    before = shape(good)
    counter = Faulty(good, 0, None, late=False)
    deploy(counter, wanted)
    after = shape(good)
    assert counter.changes
    for number in range(1, counter.changes + 1):
        service = empty()
        begun(service, steps)
        faulty = Faulty(service, number, AzureError("PHI3-A701", "a bad day"), late=late)
        with pytest.raises(AzureError):
            deploy(faulty, wanted)
        left = shape(service)
        # As before, or as wanted; a replaced idle deployment may be gone.
        assert left[0] in (before[0], after[0]) or case == "over a canary"
        assert set(left[1]) <= set(before[1]) | set(after[1])
        if left[0] == before[0]:  # what was made is taken back: nothing more is billed
            assert left[2] <= before[2]
        deploy(service, wanted)
        assert shape(service) == after


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("case", CASES)
def test_a_command_killed_at_any_change_is_completed_by_the_next(case, late, empty):
    steps, wanted = CASES[case]
    good = empty()
    begun(good, steps)
    counter = Faulty(good, 0, None, late=False)
    deploy(counter, wanted)
    for number in range(1, counter.changes + 1):
        service = empty()
        begun(service, steps)
        with pytest.raises(Killed):
            deploy(Faulty(service, number, Killed(), late=late), wanted)
        shape(service)
        deploy(service, wanted)
        assert shape(service) == shape(good)


@pytest.mark.parametrize("case", CASES)
def test_answers_that_are_not_good_leave_everything_as_it_was(case, empty):
    steps, wanted = CASES[case]
    service = empty()
    begun(service, steps)
    before, ledger = shape(service), dict(getattr(service.endpoints.get("chat"), "tags", {}))

    def bad(_endpoint, _name):
        raise GateError("PHI3-G701", "no text")

    with pytest.raises(GateError):
        deploy(service, wanted, bad)
    traffic, models, machines = shape(service)
    assert models == before[1] or case in {"third", "over a canary"}  # whose slot was emptied
    assert wanted.model not in models or wanted.model in before[1]
    if case != "over a canary":  # whose share went back before its deployment was replaced
        assert traffic == before[0]
        assert dict(getattr(service.endpoints.get("chat"), "tags", {})) == ledger
    assert machines <= before[2]
    deploy(service, replace(wanted, verify=False))
