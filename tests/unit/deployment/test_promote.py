from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest

from mlflow_phi3.deployment import promote as promotion
from mlflow_phi3.deployment.ledger import Entry, read_ledger, with_entries
from mlflow_phi3.deployment.meanwhile import Overtaken
from mlflow_phi3.deployment.plan import plan_deployment
from mlflow_phi3.deployment.rollout import get_current, roll_out
from mlflow_phi3.errors import GateError, UsageError
from tests.unit.deployment.fakes import alter, alter_endpoint, make_wanted

promote = partial(promotion.promote, check=lambda _found: None, told=lambda _line: None)
rollback = partial(promotion.rollback, target="azure-foundry:/local", told=lambda _line: None)


def entries_of(service):
    return read_ledger(service.endpoints["chat"].tags)


def test_promotion_moves_traffic_and_champion_and_rollback_takes_both_back(two, registry):
    moved = promote(two, registry, "chat")
    assert (moved.deployment, moved.model, moved.version) == ("green", "chat", "2")
    assert two.endpoints["chat"].traffic == {"green": 100}
    assert (registry.champion, registry.previous) == ("2", "1")
    assert entries_of(two)[0].at.endswith("+00:00")
    moved = rollback(two, registry, "chat")
    assert (moved.before, moved.after, moved.version) == ("green=100", "blue=100", "1")
    assert (registry.champion, registry.previous) == ("1", "2")
    mend = r"promote chat --deployment <name> -t azure-foundry:/local"
    with pytest.raises(UsageError, match=f"PHI3-U725 .*{mend}"):
        rollback(two, registry, "chat")
    assert two.endpoints["chat"].tags["team"] == "x"


def test_what_does_not_answer_well_is_not_promoted(two, registry):
    asked = []

    def check(deployment):
        asked.append(deployment.name)
        if len(asked) == 1:
            raise GateError("PHI3-G071", "it is another model")

    with pytest.raises(GateError):
        promote(two, registry, "chat", check=check)
    assert two.endpoints["chat"].traffic == {"blue": 100}
    assert (registry.champion, entries_of(two)) == ("1", [])
    assert promote(two, registry, "chat", check=check).after == "green=100"
    promote(two, registry, "chat", check=check)  # nothing is moved: nothing is asked
    assert asked == ["green", "green"]


def replaced(service):
    alter(service, "green", model="/m/3")


def moved(service):
    alter(service, "red")
    alter_endpoint(service, traffic={"blue": 90, "red": 10})


@pytest.mark.parametrize(
    ("meanwhile", "told"),
    [
        (replaced, "chat/green: it was given /3 meanwhile"),
        (moved, "was changed meanwhile to blue=90,red=10"),
    ],
)
def test_what_another_command_has_changed_during_the_check_is_not_promoted(
    two, registry, meanwhile, told
):
    with pytest.raises(Overtaken, match=f"PHI3-A713 .*{told}"):
        promote(two, registry, "chat", check=lambda _found: meanwhile(two))
    assert "green" not in two.endpoints["chat"].traffic
    assert (registry.champion, entries_of(two)) == ("1", [])


@pytest.mark.parametrize("fault", [None, RuntimeError("registry down")])
def test_what_another_command_has_moved_while_the_alias_moves_stays(two, registry, fault):
    real = registry.set_champion

    def overtaken(*args):
        moved(two)
        registry.fault = fault
        real(*args)

    registry.set_champion = overtaken
    with pytest.raises(RuntimeError) if fault else nullcontext():
        promote(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {"blue": 90, "red": 10}


def test_when_the_alias_cannot_move_the_traffic_goes_back(two, registry):
    def extended_then_down(*_aliases):
        alter_endpoint(two, tags={**two.endpoints["chat"].tags, "azure.expires_at": "2027"})
        raise RuntimeError("registry down")

    registry.set_champion = extended_then_down
    with pytest.raises(RuntimeError):
        promote(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {"blue": 100}
    assert two.endpoints["chat"].tags == {"team": "x", "azure.expires_at": "2027"}


def test_killed_between_traffic_and_alias_the_next_command_ends_it(two, registry):
    registry.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        promote(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {"green": 100}
    assert registry.champion == "1"
    registry.fault = None
    rollback(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {"blue": 100}
    assert registry.champion == "1"
    assert not any(entry.pending for entry in entries_of(two))


def test_the_move_is_done_when_only_its_last_note_fails(two, registry, refused):
    lines = []
    two.late_faults = [None, refused()]
    moved = promote(two, registry, "chat", told=lines.append)
    assert (moved.deployment, moved.version) == ("green", "2")
    assert ["a bad day" in line for line in lines] == [True]

    promote(two, registry, "chat")  # there may have been no word of it: once more
    assert two.endpoints["chat"].traffic == {"green": 100}
    assert (registry.champion, registry.previous) == ("2", "1")

    two.faults["put_endpoint"] = [None, refused()]
    assert rollback(two, registry, "chat", told=lines.append).after == "blue=100"
    assert rollback(two, registry, "chat").after == "blue=100"
    assert registry.champion == "1"
    assert not any(entry.pending for entry in entries_of(two))


def test_promote_run_again_does_not_go_back(two, registry):
    promote(two, registry, "chat")
    lines = []
    moved = promote(two, registry, "chat", told=lines.append)
    assert (moved.deployment, moved.before, moved.after) == ("green", "green=100", "green=100")
    assert (registry.champion, registry.previous) == ("2", "1")
    assert ["--deployment blue" in line for line in lines] == [True]
    assert promote(two, registry, "chat", "blue").after == "blue=100"

    rollback(two, registry, "chat")
    assert promote(two, registry, "chat", "green").after == "green=100"
    alter(two, "blue", model="/m/3")
    assert promote(two, registry, "chat").after == "blue=100"  # it is a new one


@pytest.mark.parametrize("new", ["blue", "red"])
def test_what_came_after_the_last_move_is_promoted(two, registry, new):
    promote(two, registry, "chat")
    alter(two, new, model="/m/3")
    if new == "red":
        del two.deployments["chat"]["blue"]
    assert promote(two, registry, "chat").after == f"{new}=100"


def test_after_a_rollback_promote_goes_forward_again(two, registry):
    promote(two, registry, "chat")
    rollback(two, registry, "chat")
    assert promote(two, registry, "chat").after == "green=100"


def test_promotion_of_what_has_all_traffic_moves_the_champion_alone(two, registry):
    promote(two, registry, "chat")
    before, registry.champion = two.endpoints["chat"], "1"
    assert promote(two, registry, "chat", "green").version == "2"
    assert registry.champion == "2"
    assert two.endpoints["chat"] == before
    moved = rollback(two, registry, "chat")
    assert (moved.before, moved.after) == ("green=100", "blue=100")


BLUE_GREEN = Entry("2026-01-01", {"blue": 100}, {"blue": 90, "green": 10})


@pytest.mark.parametrize(
    ("entries", "new"),
    [
        ([], "green"),
        ([Entry("2026-01-02", {"blue": 90, "green": 10}, {"blue": 40, "green": 60})], "green"),
        ([Entry("2026-01-02", {"green": 100}, {"blue": 10, "green": 90})], "blue"),
        ([Entry("2026-01-02", {"green": 100}, {"blue": 90, "green": 10}, undo=True)], "green"),
    ],
    ids=["a tenth", "most", "the other slot", "rolled back to"],
)
def test_promote_gives_a_canary_all_traffic(two, registry, entries, new):
    entries = [BLUE_GREEN, *entries]
    alter_endpoint(two, traffic=entries[-1].after, tags=with_entries({}, entries))
    alter(two, "red")
    assert promote(two, registry, "chat").after == f"{new}=100"
    assert registry.champion == {"blue": "1", "green": "2"}[new]


def test_a_canary_that_the_ledger_does_not_know_is_not_guessed(two, registry):
    for entries in ([], [BLUE_GREEN]):
        tags = with_entries({}, entries)
        alter_endpoint(two, traffic={"blue": 50, "green": 50}, tags=tags)
        with pytest.raises(UsageError, match=r"PHI3-U728 .*blue, green"):
            promote(two, registry, "chat")


TO_GREEN = Entry("2026-01-01", {"blue": 100}, {"green": 100}, "chat", "1", "2", pending=True)
TO_BLUE = Entry("2026-01-02", {"green": 100}, {"blue": 100})


@pytest.mark.parametrize(
    ("entries", "champion"),
    [([TO_GREEN, TO_BLUE], "1"), ([TO_GREEN], "1"), ([replace(TO_BLUE, pending=True)], "3")],
    ids=["a later move", "moved by others", "another champion"],
)
def test_a_killed_move_that_was_overtaken_moves_no_alias(two, registry, entries, champion):
    if champion == "3":
        entries = [replace(entries[0], model="chat", old_version="2", new_version="1")]
    registry.champion = champion
    alter_endpoint(two, tags=with_entries({}, entries))
    alter(two, "blue", tags={})
    assert promote(two, registry, "chat", "blue").after == "blue=100"
    assert (registry.champion, registry.previous) == (champion, "")
    assert not any(entry.pending for entry in entries_of(two))


def test_a_champion_of_another_model_is_left_though_its_number_is_the_same(two, registry):
    promote(two, registry, "chat")
    alter(two, "green", tags={"phi3.model": "other", "phi3.version": "2"})
    moved = rollback(two, registry, "chat")
    assert (moved.model, moved.version) == ("", "2")
    assert registry.champion == "2"


def test_a_model_without_a_version_leaves_the_champion(two, registry):
    alter(two, "green", tags={"phi3.model": "chat"})
    assert promote(two, registry, "chat").after == "green=100"
    assert (registry.champion, registry.previous) == ("1", "")


def test_rollback_to_what_is_gone_is_refused(two, registry):
    promote(two, registry, "chat")
    del two.deployments["chat"]["blue"]
    with pytest.raises(UsageError, match=r"PHI3-U726 .*@previous"):
        rollback(two, registry, "chat")


def test_rollback_of_a_promotion_knows_which_model_had_the_traffic(two, registry):
    promote(two, registry, "chat")
    alter(two, "blue", model="/m/3")
    with pytest.raises(UsageError, match="PHI3-U726 endpoint chat: what blue ran"):
        rollback(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {"green": 100}


def test_before_the_first_traffic_there_is_nothing_to_roll_back_to(two, registry):
    alter_endpoint(two, tags=with_entries({}, [Entry("2026-01-01", {}, {"blue": 100})]))
    with pytest.raises(UsageError, match="PHI3-U725"):
        rollback(two, registry, "chat")


def test_which_deployment_must_be_clear(two, registry):
    with pytest.raises(UsageError, match=r"PHI3-U724 .*: it does not exist. Fix: one of"):
        promote(two, registry, "chat", "red")
    with pytest.raises(
        UsageError, match=r"chat/gren: it does not exist. Fix: did you mean 'green'"
    ):
        promote(two, registry, "chat", "gren")
    with pytest.raises(UsageError, match="PHI3-U727"):
        promote(two, registry, "shop")


def test_what_failed_gets_no_traffic_by_either_way(two, registry):
    promote(two, registry, "chat")
    alter(two, "blue", state="Failed")
    with pytest.raises(UsageError, match="PHI3-U724 deployment chat/blue: it is in state Failed"):
        promote(two, registry, "chat", "blue")
    with pytest.raises(UsageError, match="PHI3-U726"):
        rollback(two, registry, "chat")
    assert two.endpoints["chat"].traffic == {"green": 100}


def test_the_only_one_that_has_all_traffic_is_promoted_as_before(two, registry):
    two.deployments["chat"].pop("green")
    before, registry.champion = two.endpoints["chat"], ""
    moved = promote(two, registry, "chat")
    assert (moved.before, moved.after) == ("blue=100", "blue=100")
    assert (registry.champion, moved.version) == ("1", "1")
    assert promote(two, registry, "chat").version == "1"
    assert two.endpoints["chat"] == before


def test_an_endpoint_without_deployments_has_nothing_to_promote(two, registry):
    two.deployments["chat"] = {}
    alter_endpoint(two, traffic={})
    with pytest.raises(UsageError, match=r"PHI3-U729 endpoint chat: .*mlflow deployments create"):
        promote(two, registry, "chat")


def test_an_entry_without_marks_is_still_rolled_back(two, registry):
    tags = {"phi3.ledger.0": '{"at":"2026-01-01","from":"green=100","to":"blue=100"}'}
    alter_endpoint(two, tags=tags)
    assert rollback(two, registry, "chat").after == "green=100"


@pytest.mark.parametrize("share", [None, 10], ids=["took over", "canary"])
def test_a_second_rollback_never_gives_traffic_to_another_version(service, registry, share):
    """Blue/green uses its slots again: what the ledger calls blue may run another version now."""
    for version, traffic in (("1", None), ("2", None), ("3", share)):
        wanted = make_wanted(
            model=f"/m/chat/versions/{version}",
            traffic=traffic,
            tags={"phi3.model": "chat", "phi3.version": version},
        )
        plan = plan_deployment(get_current(service, "chat"), wanted)
        roll_out(plan, service, lambda _endpoint, _name: None, told=lambda _line: None)
    registry.champion = "2" if share else "3"

    assert rollback(service, registry, "chat").after == "green=100"
    with pytest.raises(UsageError, match="PHI3-U726 endpoint chat: what blue ran"):
        rollback(service, registry, "chat")

    assert service.endpoints["chat"].traffic == {"green": 100}
    assert registry.champion == "2"
