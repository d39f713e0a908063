"""What a plan needs to know beside the sweep that is planned."""

from typing import ClassVar

from pydantic import Field

from mlflow_phi3.config.words import SweepWord


class PlanWord(SweepWord):
    """`plan`: tokens, steps, memory, disk, hours and money, before anything is spent."""

    described_in: ClassVar[str] = "mlflow-phi3 plan --help"

    foundry_model: str = "Phi-4-mini-instruct"
    """Model that Foundry would tune after a local sweep of `model`. With `backend=foundry` it tunes
    `model` itself, and this one only where `model` is `demo`."""

    jobs: int = Field(default=1, ge=0)
    """Fine-tuning jobs of Foundry after a local sweep, each with the largest number of `epochs`.
    With `backend=foundry` each trial is a job: there are `n_trials`."""

    hosting_usd_per_hour: float = Field(default=0.0, ge=0)
    """What an hour of hosting costs, US dollars per machine or endpoint; 0 takes today's price with
    `live_prices`, else the catalog's dated list price of `instance_type`. For a serverless
    endpoint no price is stored: give yours."""

    instance_type: str = "Standard_NC24ads_A100_v4"
    """Machine type of a managed deployment."""

    instance_count: int = Field(default=1, ge=1)
    """How many machines."""

    region: str = "eastus2"
    """Azure region, for prices."""

    live_prices: bool = False
    """Ask Microsoft's public price list for the machine's price of today."""

    million_tokens_a_month: float = Field(default=1.0, ge=0)
    """Millions of tokens that users send a month; they get as many."""

    probe_steps: int = Field(default=4, ge=1, le=100)
    """Optimizer steps of the real engine that are timed."""
