import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.deployment.actions import (
    CreateEndpoint,
    PutDeployment,
    RemoveDeployment,
    ShiftTraffic,
    Verify,
    in_words,
)
from mlflow_phi3.deployment.plan import Current, plan_deployment, plan_removal
from mlflow_phi3.deployment.report import describe, describe_plan
from mlflow_phi3.deployment.traffic import from_text, largest, to_text, with_share, without
from mlflow_phi3.errors import UsageError
from tests.unit.deployment.fakes import make_deployment, make_wanted

OLD, NEW = "/m/chat/versions/1", "/m/chat/versions/2"


def deployment(name, model=OLD, state="Succeeded", count=1, kind="A"):
    return make_deployment(name, model, instance_type=kind, instance_count=count, state=state)


def current(traffic, *deployments):
    endpoint = Endpoint("chat", "Succeeded", "https://x/score", traffic, {})
    return Current(endpoint, deployments)


def wanted(**changes):
    return make_wanted(**{"model": NEW, **changes})


def kinds(plan):
    return [type(action) for action in plan.actions]


def test_a_first_deployment_makes_the_endpoint_and_gets_all_traffic_after_its_check():
    plan = plan_deployment(Current(), wanted())
    assert kinds(plan) == [CreateEndpoint, PutDeployment, Verify, ShiftTraffic]
    assert plan.deployment == "blue"
    assert plan.actions[-1].traffic == {"blue": 100}


def test_a_new_version_goes_to_the_free_slot_and_the_old_one_is_kept():
    plan = plan_deployment(current({"blue": 100}, deployment("blue")), wanted())
    assert kinds(plan) == [PutDeployment, Verify, ShiftTraffic]
    assert plan.actions[0].deployment.name == "green"
    assert (plan.actions[2].before, plan.actions[2].traffic) == ({"blue": 100}, {"green": 100})


def test_the_occupied_slot_is_emptied_first():
    there = current({"green": 100}, deployment("blue"), deployment("green"))
    plan = plan_deployment(there, wanted())
    assert kinds(plan) == [RemoveDeployment, PutDeployment, Verify, ShiftTraffic]
    assert plan.actions[0].deployment == plan.actions[1].deployment.name == "blue"


def test_a_canary_of_another_version_gives_its_share_back_before_it_goes():
    there = current({"blue": 90, "green": 10}, deployment("blue"), deployment("green", "/m/x/v/9"))
    plan = plan_deployment(there, wanted())
    assert kinds(plan) == [ShiftTraffic, RemoveDeployment, PutDeployment, Verify, ShiftTraffic]
    assert plan.actions[0].traffic == {"blue": 100}
    assert (plan.actions[-1].before, plan.actions[-1].traffic) == ({"blue": 100}, {"green": 100})


def test_without_keep_previous_the_old_one_goes_last():
    there = current({"blue": 100}, deployment("blue"))
    plan = plan_deployment(there, wanted(keep_previous=False))
    assert kinds(plan)[-2:] == [ShiftTraffic, RemoveDeployment]
    assert plan.actions[-1].deployment == "blue"
    beside_a_canary = plan_deployment(there, wanted(keep_previous=False, traffic=10))
    assert kinds(beside_a_canary) == [PutDeployment, Verify, ShiftTraffic]


def test_a_share_of_the_traffic_makes_a_canary():
    plan = plan_deployment(current({"blue": 100}, deployment("blue")), wanted(traffic=10))
    assert plan.actions[-1].traffic == {"green": 10, "blue": 90}


@pytest.mark.parametrize("name", ["", "blue"])
@pytest.mark.parametrize("there", [Current(), current({})], ids=["nothing", "an empty endpoint"])
def test_where_nothing_serves_a_share_of_nought_stays_dark_and_a_part_is_refused(there, name):
    plan = plan_deployment(there, wanted(deployment=name, traffic=0))
    assert kinds(plan)[-2:] == [PutDeployment, Verify]
    whole = plan_deployment(there, wanted(deployment=name, traffic=100))
    assert whole.actions[-1].traffic == {"blue": 100}
    with pytest.raises(UsageError, match="PHI3-U714 deployment blue: nothing else can take"):
        plan_deployment(there, wanted(deployment=name, traffic=10))


def test_a_dark_service_stays_dark_unless_it_is_told_or_updated_without_a_share():
    there = current({}, deployment("blue", OLD))
    assert kinds(plan_deployment(there, wanted(model=OLD, traffic=0))) == [Verify]
    assert kinds(plan_deployment(there, wanted(traffic=0))) == [
        RemoveDeployment,
        PutDeployment,
        Verify,
    ]
    assert plan_deployment(there, wanted()).actions[-1].traffic == {"blue": 100}


def test_what_is_wanted_already_is_only_asked():
    """The command that made or changed it may have been killed before it asked."""
    there = current({"blue": 100}, deployment("blue", NEW), deployment("green"))
    for name in ("", "blue"):
        plan = plan_deployment(there, wanted(deployment=name))
        assert plan.actions == (Verify("chat", "blue"),)
        assert plan_deployment(there, wanted(deployment=name, verify=False)).actions == ()
    plan = plan_deployment(there, wanted(deployment="green", model=OLD))
    assert plan.actions == (Verify("chat", "green"),)


def test_to_lose_traffic_needs_no_check():
    there = current({"blue": 90, "green": 10}, deployment("blue"), deployment("green", NEW))
    for name in ("", "green"):
        assert kinds(plan_deployment(there, wanted(deployment=name, traffic=0))) == [ShiftTraffic]


@pytest.mark.parametrize(
    ("model", "before", "share", "after"),
    [
        (NEW, 10, 50, {"blue": 50, "green": 50}),
        (NEW, 10, None, {"green": 100}),
        (NEW, 60, None, {"green": 100}),
        (NEW, 60, 30, {"blue": 70, "green": 30}),
        (OLD, 10, None, {"blue": 100}),
    ],
    ids=["more", "all", "all after most", "less", "aborted"],
)
def test_a_canary_is_carried_on_as_it_is(model, before, share, after):
    canary = replace(deployment("green", NEW, kind="B"), variables={"A": "1"})
    there = current({"blue": 100 - before, "green": before}, deployment("blue"), canary)
    plan = plan_deployment(there, wanted(model=model, traffic=share))
    assert kinds(plan) == [Verify, ShiftTraffic]
    assert plan.deployment == plan.actions[0].deployment == ("green" if model == NEW else "blue")
    assert plan.actions[1].traffic == after


def test_a_canary_is_changed_in_place_and_the_previous_one_goes_when_told():
    there = current({"blue": 90, "green": 10}, deployment("blue"), deployment("green", NEW))
    plan = plan_deployment(there, wanted(instance_count=3, keep_previous=False))
    assert kinds(plan) == [PutDeployment, Verify, ShiftTraffic, RemoveDeployment]
    assert (plan.actions[0].deployment.name, plan.actions[-1].deployment) == ("green", "blue")
    dark = plan_deployment(there, wanted(traffic=0, keep_previous=False))
    assert kinds(dark) == [ShiftTraffic]


def test_an_idle_version_gets_the_machines_of_the_one_that_it_takes_over_from():
    there = current({"blue": 100}, deployment("blue", count=3), deployment("green", NEW))
    plan = plan_deployment(there, wanted())
    assert kinds(plan) == [RemoveDeployment, PutDeployment, Verify, ShiftTraffic]
    assert plan.actions[1].deployment.instance_count == 3


def test_an_interrupted_command_is_taken_up_without_a_second_deployment():
    there = current({"blue": 100}, deployment("blue"), deployment("green", NEW))
    plan = plan_deployment(there, wanted())
    assert kinds(plan) == [Verify, ShiftTraffic]
    nowhere = current({}, deployment("blue", NEW))
    assert kinds(plan_deployment(nowhere, wanted())) == [Verify, ShiftTraffic]


def test_a_failed_slot_is_replaced():
    there = current({}, deployment("blue", NEW, state="Failed"))
    assert kinds(plan_deployment(there, wanted())) == [
        RemoveDeployment,
        PutDeployment,
        Verify,
        ShiftTraffic,
    ]


def test_a_failed_one_that_gets_requests_is_changed_where_it_is():
    there = current({"blue": 100}, deployment("blue", NEW, state="Failed"))
    assert kinds(plan_deployment(there, wanted(deployment="blue"))) == [PutDeployment, Verify]


def test_an_update_without_values_keeps_what_is_there():
    there = current({"blue": 100}, deployment("blue", count=3, kind="Big"))
    put = plan_deployment(there, wanted()).actions[0].deployment
    assert (put.instance_count, put.instance_type) == (3, "Big")


def test_only_another_count_scales_in_place():
    there = current({"blue": 100}, deployment("blue", NEW))
    plan = plan_deployment(there, wanted(instance_count=4))
    assert kinds(plan) == [PutDeployment, Verify]
    assert plan.actions[0].before == deployment("blue", NEW)
    assert plan.actions[0].deployment.instance_count == 4


def test_another_machine_type_is_a_new_deployment():
    there = current({"blue": 100}, deployment("blue", NEW))
    plan = plan_deployment(there, wanted(instance_type="B"))
    assert plan.actions[0].deployment.name == "green"


def test_a_named_deployment_beside_others_gets_no_traffic_unless_told():
    there = current({"blue": 100}, deployment("blue"))
    plan = plan_deployment(there, wanted(deployment="canary"))
    assert kinds(plan) == [PutDeployment, Verify]
    plan = plan_deployment(there, wanted(deployment="canary", traffic=25))
    assert plan.actions[-1].traffic == {"canary": 25, "blue": 75}


def test_a_new_deployment_needs_a_model():
    with pytest.raises(UsageError, match="PHI3-U716"):
        plan_deployment(Current(), wanted(model=""))


def test_removing_the_deployment_with_all_traffic_is_refused():
    there = current({"blue": 100}, deployment("blue"), deployment("green"))
    with pytest.raises(UsageError, match="PHI3-U715"):
        plan_removal(there, "blue")
    assert kinds(plan_removal(there, "green")) == [RemoveDeployment]


def test_removing_one_with_a_share_gives_it_to_the_others_first():
    there = current({"blue": 60, "green": 40}, deployment("blue"), deployment("green"))
    plan = plan_removal(there, "green")
    assert kinds(plan) == [ShiftTraffic, RemoveDeployment]
    assert plan.actions[0].traffic == {"blue": 100}


def test_removing_all_of_an_endpoint_tells_what_goes_with_it():
    there = current({"blue": 100}, deployment("blue"), deployment("green"))
    (whole,) = plan_removal(there).actions
    assert in_words(whole) == "delete endpoint chat with its deployments blue, green"
    (empty,) = plan_removal(current({})).actions
    assert in_words(empty) == "delete endpoint chat"


def test_removing_what_is_not_there_is_nothing():
    assert plan_removal(Current()).actions == plan_removal(Current(), "blue").actions == ()
    assert plan_removal(current({}), "blue").actions == ()


shares = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 100), min_size=2, max_size=4
)


@given(shares, st.integers(0, 100))
def test_traffic_always_adds_up(weights, share):
    whole = with_share({"rest": 100}, "first", 0)
    traffic = whole
    for name in weights:
        traffic = with_share(traffic, name, weights[name])
    changed = with_share(traffic | {"rest": traffic.get("rest", 0)}, "new", min(share, 99) + 1)
    assert sum(changed.values()) == 100
    assert all(part > 0 for part in changed.values())


def test_traffic_reads_what_it_writes():
    assert to_text({"green": 10, "blue": 90}) == "blue=90,green=10"
    assert from_text(to_text({"green": 10, "blue": 90})) == {"blue": 90, "green": 10}
    assert largest({"green": 50, "blue": 50}) == "blue"
    assert from_text("") == {}
    assert without({"blue": 34, "green": 33, "red": 33}, "red") == {"blue": 51, "green": 49}


def test_what_is_not_told_is_kept_and_variables_for_safety_are_told_apart():
    known = replace(
        deployment("blue"),
        request_timeout_s=120,
        variables={"A": "1", "CONTENT_SAFETY_ENDPOINT": "e", "CONTENT_SAFETY_KEY": "k"},
    )
    there = current({"blue": 100}, known)

    def put(**changes):
        return plan_deployment(there, wanted(**changes)).actions[0].deployment

    assert (put().request_timeout_s, put().variables) == (120, known.variables)
    assert put(request_timeout_s=5).request_timeout_s == 5
    assert put(safety={}).variables == {"A": "1"}
    safety = {name: value for name, value in known.variables.items() if name != "A"}
    assert put(variables={"B": "2"}).variables == {"B": "2", **safety}
    assert plan_deployment(Current(), wanted()).actions[1].deployment.request_timeout_s == 90


def test_collecting_is_switched_like_any_other_setting():
    quiet = deployment("blue", NEW)
    collecting = replace(quiet, collect_data=True)

    def after(known, **changes):
        plan = plan_deployment(current({"blue": 100}, known), wanted(**changes))
        puts = [a.deployment for a in plan.actions if isinstance(a, PutDeployment)]
        return [(put.name, put.collect_data) for put in puts]

    assert after(quiet) == after(collecting) == after(collecting, collect_data=True) == []
    assert after(quiet, collect_data=True) == after(quiet, collect_data=True, model="")
    assert after(quiet, collect_data=True) == [("blue", True)]
    assert after(collecting, instance_count=3) == [("blue", True)]
    assert after(collecting, collect_data=False) == [("blue", False)]
    assert after(replace(collecting, model=OLD)) == [("green", True)]


def test_an_idle_version_that_does_not_collect_is_not_what_is_wanted():
    there = current({"blue": 100}, deployment("blue"), deployment("green", NEW))
    plan = plan_deployment(there, wanted(collect_data=True))
    assert kinds(plan) == [RemoveDeployment, PutDeployment, Verify, ShiftTraffic]
    assert plan.actions[1].deployment.collect_data


def test_tags_stay_unless_another_value_or_none_is_wanted():
    known = replace(deployment("blue", NEW), tags={"team": "x", "why": "a test"})
    there = current({"blue": 100}, known)

    def put(**changes):
        return plan_deployment(there, wanted(**changes)).actions[0].deployment

    assert kinds(plan_deployment(there, wanted(tags={"team": "x"}))) == [Verify]
    assert put(instance_count=2).tags == known.tags
    assert put(tags={"team": "y", "why": ""}).tags == {"team": "y"}
    assert put(model=OLD).tags == known.tags


def test_an_endpoint_reads_connections_only_when_it_has_to():
    first = plan_deployment(Current(), wanted(safety={"CONTENT_SAFETY_KEY": "ref"})).actions[0]
    assert first.endpoint.reads_secrets
    assert not plan_deployment(Current(), wanted()).actions[0].endpoint.reads_secrets


def test_one_deployment_is_described_without_the_others():
    there = current({"blue": 100}, deployment("blue"), deployment("green", NEW, count=2))
    shown = describe(there.endpoint, there.deployments, "green")
    assert (shown["name"], shown["instance_count"]) == ("green", 2)
    assert "deployments" not in shown
    assert set(describe(there.endpoint, there.deployments)["deployments"]) == {"blue", "green"}


def test_what_a_killed_command_left_idle_goes_with_the_next():
    there = current({"green": 100}, deployment("blue"), deployment("green", NEW))
    assert kinds(plan_deployment(there, wanted())) == [Verify]
    plan = plan_deployment(there, wanted(keep_previous=False))
    assert kinds(plan) == [Verify, RemoveDeployment]
    assert plan.actions[-1].deployment == "blue"


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (
            "Standard_NC24ads_A100_v4",
            None,
            r"2 x \S+ at [\d.]+ USD \(20\d\d-.*: \d+\.\d\d USD an hour",
        ),
        ("Standard_NC24ads_A100_v4", 2.0, r"at 2 USD \(as given\): 4.00 USD an hour"),
        ("Standard_DS3_v2", None, "-C usd_per_hour= computes it"),
    ],
)
def test_a_plan_tells_what_an_hour_costs_and_who_says_so(kind, given, said):
    plan = plan_deployment(Current(), wanted(default_instance_type=kind, instance_count=2))
    assert re.search(said, describe_plan(plan, (), usd_per_hour=given))
