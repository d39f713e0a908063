"""How long a study may take, and what it has cost."""

from dataclasses import dataclass

from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.modeling.catalog import machine_price


@dataclass(frozen=True, slots=True)
class Budget:
    """What a study may spend, over all commands that work on it.

    Args:
        seconds: Of all its drivers together; 0 is no limit.
        name: The parameter that set that limit.
        usd_per_hour: What an hour of a driver's machine costs; 0 is one's own.
        source: Where that price is from.
    """

    seconds: float = 0.0
    name: str = "budget_hours"
    usd_per_hour: float = 0.0
    source: str = ""

    def is_spent(self, seconds: float) -> bool:
        """Whether so many seconds are all that there is."""
        return 0 < self.seconds <= seconds

    def usd(self, seconds: float) -> float:
        """What so many seconds cost, in US dollars."""
        return seconds / 3600 * self.usd_per_hour


def plan_budget(config: SweepConfig) -> Budget:
    """The tighter of the two limits, and the price that money is counted at.

    Raises:
        UsageError: The price of ``machine`` is not known.
    """
    usd, source = config.usd_per_hour, "as given"
    if config.machine and not usd:
        price = machine_price(config.machine)
        usd, source = price.usd_per_hour, f"{price.machine} on {price.as_of}, {price.source}"
    limits = [(config.budget_hours * 3600, "budget_hours")] if config.budget_hours else []
    if config.budget_cost:
        limits.append((config.budget_cost / usd * 3600, "budget_cost"))
    seconds, name = min(limits, default=(0.0, "budget_hours"))
    return Budget(seconds, name, usd, source if usd else "")
