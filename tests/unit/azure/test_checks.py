"""What `doctor` decides without asking anybody."""

import datetime as dt

import pytest

from mlflow_phi3.azure.checks import (
    Needs,
    check_clock,
    check_region,
    check_versions,
    cores_needed,
    untold_steps,
)

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NEEDS = Needs("phi", ("eastus2", "westus"), "", "another", "A", 1, regions_as_of="today")


def test_a_fifth_of_the_quota_is_kept_for_upgrades_but_for_large_gpus():
    assert cores_needed("Standard_DS3_v2", 4, 1) == 8
    assert cores_needed("Standard_DS3_v2", 4, 10) == 48
    assert cores_needed("Standard_NC24ads_A100_v4", 24, 2) == 48


@pytest.mark.parametrize(
    ("ahead_s", "state", "found"),
    [
        (300, "ok", "300 s ahead"),
        (-300, "ok", "300 s behind"),
        (301, "failed", "301 s ahead"),
        (-301, "failed", "301 s behind"),
        (None, "skipped", "the service did not tell its time"),
    ],
)
def test_a_clock_may_differ_by_five_minutes(ahead_s, state, found):
    told = None if ahead_s is None else NOW - dt.timedelta(seconds=ahead_s)
    check = check_clock(NOW, told)
    assert (check.state, check.found, bool(check.blocks)) == (state, found, state == "failed")


@pytest.mark.parametrize(
    ("location", "state", "fix"),
    [
        ("westus", "ok", ""),
        ("", "skipped", ""),
        ("uksouth", "failed", "--project <new name> --location eastus2"),
    ],
)
def test_a_project_has_to_be_where_the_model_is_tuned(location, state, fix):
    check = check_region(NEEDS, location)
    assert (check.state, check.needed) == (state, "a project in eastus2, westus (today)")
    assert check.fix.endswith(fix)
    assert check.blocks == (("train",) if fix else ())


@pytest.mark.parametrize(
    ("found", "state"),
    [("1.35", "ok"), ("1.36rc1", "ok"), ("1.34", "failed"), ("", "failed")],
)
def test_a_package_has_to_be_of_a_wanted_version(found, state):
    needs = Needs("phi", (), "", "", "A", 1, {"p": found}, {"p": ">=1.35"})
    (check,) = check_versions(needs)
    assert (check.state, check.found) == (state, found or "not installed")


@pytest.mark.parametrize(("mend", "state"), [("", "skipped"), ("ask for Reader", "failed")])
def test_what_is_not_known_of_a_step(mend, state):
    (check,) = untold_steps(("train",), "no group", mend)
    assert (check.state, check.found, check.fix) == (state, "no group", mend)
    assert check.blocks == (("train",) if mend else ())
