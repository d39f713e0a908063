import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.errors import UsageError
from mlflow_phi3.sweep.budget import plan_budget


def plan(**values):
    return plan_budget(parse_values(SweepConfig, values))


def test_the_tighter_limit_holds():
    assert not plan().is_spent(1e9)
    hours = plan(budget_hours="2", budget_cost="30", usd_per_hour="10")
    assert (hours.name, hours.seconds) == ("budget_hours", 7200)
    money = plan(budget_hours="2", budget_cost="15", usd_per_hour="10")
    assert (money.name, money.seconds) == ("budget_cost", 5400)
    assert money.is_spent(5400)
    assert not money.is_spent(5399)
    assert money.usd(3600) == 10


def test_a_machine_has_a_dated_price_that_yields_to_a_given_one():
    listed = plan(budget_cost="3.673", machine="standard_nc24ads_a100_v4")
    assert listed.seconds == pytest.approx(3600)
    assert listed.source.startswith("Standard_NC24ads_A100_v4 on 2026-11-09, eastus: ")
    given = plan(budget_cost="3.673", machine="Standard_NC24ads_A100_v4", usd_per_hour="7.346")
    assert given.seconds == pytest.approx(1800)
    assert given.source == "as given"


def test_an_unknown_machine_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'Standard_NC40ads_H100_v5'"):
        plan(budget_cost="1", machine="Standard_NC40ads_H100")
    with pytest.raises(UsageError, match="budget_cost needs machine or usd_per_hour"):
        plan(budget_cost="1")
