"""Training in Azure AI Foundry."""

from typing import Literal

from pydantic import Field

from mlflow_phi3.config.base import Config


class FoundryConfig(Config):
    """What ``backend=foundry`` needs to know beside the training itself."""

    azure_target: str = "azure-foundry"
    """Project of Azure AI Foundry, for `backend=foundry`: as `--target` of `mlflow deployments`;
    `azure-foundry:/local` is the emulator, where `model=demo` stands for Phi-4-mini-instruct."""

    tuned_model: str = "phi3-chat"
    """Name of the registered model, and of the model in Azure, that a fine-tuning job of Foundry
    makes a version of."""

    on_interrupt: Literal["leave", "cancel"] = "leave"
    """What Ctrl-C does to a job in Foundry: `leave` lets it train on (and cost), `cancel` ends
    it."""

    job_timeout_hours: float = Field(default=24.0, gt=0)
    """Hours to follow a job in Foundry; it goes on after that, and `mlflow-phi3 watch` follows it
    again."""

    max_jobs: int = Field(default=2, ge=1)
    """Jobs of a sweep that train in Foundry at the same time."""

    budget_usd: float = Field(default=0.0, ge=0)
    """Submit no job that would bring the estimated cost of training in Foundry above this, US
    dollars; 0 sets no limit. Hosting is not part of it."""

    training_usd_per_million: float = Field(default=0.0, ge=0)
    """Foundry's price of training, US dollars per million tokens, from its price page; 0 takes the
    catalog's, which is a lower bound."""


class FoundryJobConfig(FoundryConfig):
    """What a single job of Foundry needs to know; those of a sweep are submitted as others end."""

    detach: bool = False
    """Submit the job and return; `mlflow-phi3 watch` follows it."""
