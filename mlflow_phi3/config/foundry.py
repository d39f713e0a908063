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

    detach: bool = False
    """Submit the job and return; `mlflow-phi3 watch` takes it up again."""

    on_interrupt: Literal["leave", "cancel"] = "leave"
    """What Ctrl-C does to a job in Foundry: `leave` lets it train on (and cost), `cancel` ends
    it."""

    job_timeout_hours: float = Field(default=24.0, gt=0)
    """Follow a job in Foundry for so long; it goes on without us, and `mlflow-phi3 watch` takes it
    up again."""
