"""Promotions and rollbacks that are killed between any two of their calls, and run again."""

from functools import partial

import pytest

from mlflow_phi3.deployment import promote as promotion
from mlflow_phi3.deployment.ledger import read_ledger
from tests.unit.deployment.fakes import alter, alter_endpoint

promote = partial(promotion.promote, check=lambda _found: None, told=lambda _line: None)
rollback = partial(promotion.rollback, target="azure-foundry:/local", told=lambda _line: None)


def test_another_wish_than_the_killed_move_is_done_after_it(two, registry):
    for command, wish, after in ((promote, "blue", "blue=100"), (rollback, "", "green=100")):
        if command is rollback:
            promote(two, registry, "chat", "green")
        registry.fault = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            command(two, registry, "chat")
        registry.fault = None
        assert promote(two, registry, "chat", wish).after == after
        assert registry.champion == {"blue=100": "1", "green=100": "2"}[after]


class Dies:
    """Calls one by one, of which the n-th is the last; before or after it is done."""

    def __init__(self, number, *, late):
        self.number, self.late, self.count = number, late, 0

    def around(self, thing, *names):
        dies = self

        class Watched:
            def __getattr__(self, name):
                real = getattr(thing, name)
                return dies.counted(real) if name in names else real

        return Watched()

    def counted(self, real):
        def call(*args, **options):
            self.count += 1
            if self.count == self.number and not self.late:
                raise KeyboardInterrupt
            found = real(*args, **options)
            if self.count == self.number:
                raise KeyboardInterrupt
            return found

        return call


def promote_blue(service, registry, endpoint):
    return promote(service, registry, endpoint, "blue")


KILLS = [
    (True, 1, False),
    (True, 1, True),
    (True, 2, False),
    (True, 2, True),
    (True, 3, False),
    (False, 1, False),
    (False, 1, True),
    (False, 2, False),
]
THROUGH = [(True, 3, True), (False, 2, True)]
"""After its last call: nobody can tell a rollback that is run again from a second one."""


@pytest.mark.parametrize(
    ("command", "registered", "number", "late"),
    [(command, *kill) for command in (promote_blue, promote) for kill in KILLS + THROUGH]
    + [(rollback, *kill) for kill in KILLS],
)
def test_a_command_killed_anywhere_and_run_again_does_its_work_once(
    two, registry, command, registered, number, late
):
    if not registered:
        for name in ("blue", "green"):
            alter(two, name, tags={})
    promote(two, registry, "chat")
    promote(two, registry, "chat", "blue")
    goal = ("green", "2")
    if command is promote_blue:
        promote(two, registry, "chat", "green")
        goal = ("blue", "1")
    if command is promote:
        alter_endpoint(two, tags={})
    dies = Dies(number, late=late)
    service = dies.around(two, "put_endpoint")
    aliases = dies.around(registry, "set_champion")
    with pytest.raises(KeyboardInterrupt):
        command(service, aliases, "chat")
    moved = command(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {goal[0]: 100}
    assert registry.champion == (goal[1] if registered else "1")
    assert moved.after == f"{goal[0]}=100"
    assert not any(entry.pending for entry in read_ledger(two.endpoints["chat"].tags))
