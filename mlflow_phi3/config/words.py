"""The feature words and their schemas: what each entry point accepts."""

from typing import Annotated, Literal, Self

from pydantic import model_validator

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.context import ContextConfig
from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.foundry import FoundryConfig, FoundryJobConfig
from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.model import ModelConfig
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.config.swept import Element, Pin, Swept


class PrepareWord(PrepareConfig, ModelConfig, ContextConfig):
    """`prepare`: check, clean, split and tokenise chat data."""


class TrainWord(FoundryJobConfig, Hyperparameters, PrepareWord):
    """`train`: one LoRA training with given hyperparameters."""

    backend: Literal["local", "foundry"] = "local"
    """Where it trains: `local`, in this process; `foundry`, as a fine-tuning job of Azure AI
    Foundry (docs/foundry.md)."""

    continue_from: str = ""
    """Train on from an adapter instead of a fresh one, when more data comes:
    `models:/phi3-chat@champion` (a version that `register` made), `runs:/<id of a training>`,
    `latest` (the newest finished training of the experiment), or a folder in PEFT's format. It
    keeps its rank, scale and layers."""

    # A single training needs single values where a sweep has choices.
    batch_size_multiplier: Annotated[Swept, Element(int, least=1)] = Pin(1)
    """Micro-batches of `per_device_batch_size` examples that make one optimizer step (gradient
    accumulation), at least 1."""

    epochs: Annotated[Swept, Element(int, least=1)] = Pin(3)
    """Passes over the training examples, at least 1."""


class SweepWord(FoundryConfig, SweepConfig, PrepareWord):
    """`sweep`: search hyperparameters over LoRA trainings."""

    @model_validator(mode="after")
    def _fit_the_backend(self) -> Self:
        if self.budget_usd and self.backend != "foundry":
            raise ValueError(
                f"budget_usd is for backend=foundry; with {self.backend} it is budget_cost"
            )
        return self


class EvaluateWord(EvaluateConfig, ContextConfig):
    """`evaluate`: measure a sweep's winner and the untuned base on the test split."""

    sweep_run: str = ""
    """Run id of a finished sweep; empty takes the newest of the experiment."""


class RegisterWord(RegisterConfig, ContextConfig):
    """`register`: prove the winner portable and make it a registered model version."""

    evaluate_run: str = ""
    """Run id of a finished evaluation; empty takes the newest of the experiment."""


class MainWord(RegisterConfig, EvaluateConfig, SweepWord):
    """`main`: prepare, sweep, evaluate and register, one after the other."""


WORDS: dict[str, type[Config]] = {
    "main": MainWord,
    "prepare": PrepareWord,
    "train": TrainWord,
    "sweep": SweepWord,
    "evaluate": EvaluateWord,
    "register": RegisterWord,
}
