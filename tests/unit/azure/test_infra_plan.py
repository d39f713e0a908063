"""Which hub and project are meant, where they shall be, and what is in the way."""

from dataclasses import replace

import pytest

from mlflow_phi3.azure.infra_plan import CurrentInfra, find_location, own_hub, plan_infra
from mlflow_phi3.azure.infra_wanted import WantedInfra, check_wanted
from mlflow_phi3.azure.target import Target
from mlflow_phi3.errors import PreflightError, UsageError

TARGET = Target("s", "g", "chat")
WANTED = WantedInfra(TARGET, "chat-hub", "", ai_services="skip")
EAST, WEST = {"location": "East US 2"}, {"location": "westus"}
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/one"
SEARCH = "https://one.search.windows.net"


@pytest.mark.parametrize(
    ("wanted", "hub", "group", "found"),
    [
        ("West US", EAST, EAST, "westus"),
        ("", EAST, WEST, "eastus2"),
        ("", None, WEST, "westus"),
    ],
)
def test_the_region_is_as_wanted_then_the_hubs_then_the_groups(wanted, hub, group, found):
    current = CurrentInfra(group, hub, None, None, locations=("westus",))
    assert find_location(current, replace(WANTED, location=wanted)) == found


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("", "no region is told"),
        ("east-us", "'east-us' is not a region"),
        ("eastus22", "'eastus22' is not a region"),
        ("westus", r"'westus' is not a region of this subscription"),
    ],
)
def test_what_is_no_region_is_refused(wanted, told):
    current = CurrentInfra(None, None, None, None, locations=("eastus2",))
    with pytest.raises(UsageError, match=rf"PHI3-U762 --location: {told}\. Fix"):
        find_location(current, replace(WANTED, location=wanted))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hub": "ab"}, "U761 --hub"),
        ({"hub": "-abc"}, "U761 --hub"),
        ({"hub": "a" * 33}, ""),
        ({"hub": "a" * 34}, "U761 --hub"),
        ({"target": replace(TARGET, project="ab")}, "U761 --project"),
        ({"target": replace(TARGET, group="a.b(c)_")}, ""),
        ({"target": replace(TARGET, group="ab.")}, "U789 --group"),
        ({"target": replace(TARGET, group="a" * 91)}, "U789 --group"),
        ({"ai_services": "create"}, ""),
        ({"ai_services": ACCOUNT}, ""),
        ({"ai_services": ACCOUNT + "/"}, "U786 --ai-services"),
        ({"search": SEARCH + ":443/"}, ""),
        ({"search": "https://one"}, "U787 --search"),
    ],
)
def test_names_that_azure_refuses(changes, code):
    wanted = replace(WANTED, **changes)
    if not code:
        check_wanted(wanted)
        return
    with pytest.raises(UsageError, match=f"PHI3-{code}"):
        check_wanted(wanted)


@pytest.mark.parametrize(
    ("ai_services", "leads_to", "refused"),
    [
        (ACCOUNT, ACCOUNT.upper() + "/", False),
        (ACCOUNT, "", False),  # not told
        (ACCOUNT, ACCOUNT.replace("one", "two"), True),
        ("create", ACCOUNT, False),  # whatever it leads to
        ("skip", ACCOUNT, False),
    ],
)
def test_a_connection_stays_as_it_is(ai_services, leads_to, refused):
    wanted = replace(WANTED, ai_services=ai_services)
    hub, project = ({**EAST, "kind": kind} for kind in ("Hub", "Project"))
    current = CurrentInfra(EAST, hub, project, {}, {"ai-services": leads_to})
    if not refused:
        assert plan_infra(current, wanted) == ()
        return
    with pytest.raises(PreflightError, match=r"P726 connection ai-services .*--ai-services skip"):
        plan_infra(current, wanted)


def test_a_hub_is_known_however_its_id_is_spelt():
    spelt = TARGET.path.replace("resourceGroups", "resourcegroups").replace("chat", "hub")
    found = own_hub({"properties": {"hubResourceId": spelt}})
    assert (found["group"], found["name"]) == ("g", "hub")
    assert own_hub({"properties": {}}) is own_hub(None) is None


def test_an_accounts_name_is_a_hosts_and_its_own():
    made = {replace(WANTED, hub=hub).account_name for hub in ("My_Hub", "my-hub", "MY_HUB")}
    assert len(made) == 2  # the case of a hub's name is no matter, all else is
    assert all(name.startswith("my-hub-ai-") and name == name.lower() for name in made)
    elsewhere = replace(WANTED, ai_services="create", hub_group="platform")
    assert "/resourceGroups/platform/" in elsewhere.account_path
    assert elsewhere.account_name != WANTED.account_name
    assert replace(WANTED, ai_services=ACCOUNT).account_path == ACCOUNT
