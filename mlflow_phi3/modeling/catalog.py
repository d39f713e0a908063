"""What is known of each Phi model: a dated file of public facts; the network is not asked."""

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from mlflow_phi3.config.parse import suggest
from mlflow_phi3.errors import PreflightError, UsageError


@dataclass(frozen=True, slots=True)
class Price:
    """Of inference, in US dollars per million tokens.

    Args:
        input: Tokens read.
        output: Tokens generated.
        as_of: Month of the figures, to be printed with every estimate.
        source: Where they are from, likewise.
    """

    input: float
    output: float
    as_of: str
    source: str


@dataclass(frozen=True, slots=True)
class TrainingPrice:
    """Of fine-tuning in Foundry.

    Args:
        usd_per_million_from: US dollars per million trained tokens, at least.
        as_of: Month of the figure.
        source: Where it is from, and what it leaves out.
    """

    usd_per_million_from: float
    as_of: str
    source: str


@dataclass(frozen=True, slots=True)
class MachinePrice:
    """What a rented machine costs.

    Args:
        machine: Its type, as Azure calls it.
        usd_per_hour: List price, pay as you go, Linux.
        as_of: Day of the figure (ISO).
        source: Region, and where the figure is from.
    """

    machine: str
    usd_per_hour: float
    as_of: str
    source: str


@dataclass(frozen=True, slots=True)
class PhiModel:
    """One model of the catalog.

    Args:
        name: In Azure's registry, such as ``Phi-4-mini-instruct``.
        hub_id: On the Hugging Face hub.
        parameters_billion: Size.
        context_tokens: Prompt and answer together.
        revision: Pinned commit on the hub; None where none has been verified.
        retired_on: Day its serverless offer ended (ISO), or None.
        replacement: What to take instead of a retired model.
        finetuning_regions: Where Foundry tunes it; empty where it does not.
        finetuning_as_of: Month of that list.
        no_finetuning_because: Why Foundry does not tune it, or empty.
        price: Of inference, where a figure is known.
    """

    name: str
    hub_id: str
    parameters_billion: float
    context_tokens: int
    revision: str | None
    retired_on: str | None
    replacement: str | None
    finetuning_regions: tuple[str, ...]
    finetuning_as_of: str | None
    no_finetuning_because: str
    price: Price | None


@dataclass(frozen=True, slots=True)
class LearningRates:
    """Where to look for a LoRA learning rate.

    Args:
        low: Lower end of a sweep.
        high: Upper end.
        default: A first guess.
    """

    low: float
    high: float
    default: float


def describe(name: str, *, where: str = "model") -> PhiModel:
    """The model called ``name``: its registry name or hub id, without regard to case.

    Args:
        name: As a person wrote it.
        where: The option that they wrote it in.

    Raises:
        UsageError: It is not in the catalog; the message names the nearest one, first of those
            that begin so.
    """
    if found := find(name):
        return found
    known = list_models()
    bare = name.casefold().removeprefix("microsoft/")
    begun = [model for model in known if model.name.casefold().startswith(bare)]
    offered = [model for model in begun if not model.retired_on]
    names = [model.name for model in offered or begun or known]
    raise UsageError(
        "PHI3-U032",
        f"{name!r} is not in the catalog",
        where=where,
        fix=suggest(bare, names, "mlflow-phi3 models lists them all"),
    )


def find(name: str) -> PhiModel | None:
    """As :func:`describe`, or None for a model that is not in the catalog."""
    wanted = name.casefold()
    return next(
        (m for m in list_models() if wanted in {m.name.casefold(), m.hub_id.casefold()}), None
    )


def refusal(model: PhiModel) -> tuple[str, str]:
    """Why Foundry does not tune a model, and what to do instead; two empty texts where it does."""
    instead = f"take {model.replacement}, or " if model.replacement else ""
    local = f"{instead}tune it yourself: mlflow-phi3 train --model {model.hub_id}"
    if model.retired_on:
        return f"{model.name} was retired in Foundry on {model.retired_on}", local
    if not model.finetuning_regions:
        return f"Foundry does not tune {model.name}: {model.no_finetuning_because}", local
    return "", ""


def require_tunable(name: str) -> PhiModel:
    """The model called ``name``, when Foundry tunes it.

    Raises:
        UsageError: It is not in the catalog.
        PreflightError: It is retired (the message has the date and the replacement), or Foundry
            does not tune it.
    """
    model = describe(name)
    why, instead = refusal(model)
    if why:
        raise PreflightError("PHI3-P032", why, where="model", fix=instead)
    return model


def list_models() -> tuple[PhiModel, ...]:
    """All models, in the order of the file."""
    return tuple(_to_model(name, facts) for name, facts in _catalog()["models"].items())


def learning_rates() -> LearningRates:
    """The recommended range for LoRA on all linear layers."""
    facts = _catalog()["learning_rate"]
    return LearningRates(facts["low"], facts["high"], facts["default"])


def training_price() -> TrainingPrice:
    """What Foundry's fine-tuning costs at least."""
    facts = _catalog()["training_price"]
    return TrainingPrice(facts["usd_per_million_tokens_from"], facts["as_of"], facts["source"])


def machine_price(machine: str) -> MachinePrice:
    """What an hour of a machine type costs, without regard to case.

    Raises:
        UsageError: The catalog has no price of it; the message names the nearest type.
    """
    found = find_machine_price(machine)
    if found is None:
        known = list(_catalog()["machine_prices"]["usd_per_hour"])
        raise UsageError(
            "PHI3-U033",
            f"no price of {machine!r} is known",
            where="machine",
            fix=f"give usd_per_hour; or {suggest(machine, known)}",
        )
    return found


def find_machine_price(machine: str) -> MachinePrice | None:
    """As :func:`machine_price`, or None where the catalog has no price of it."""
    facts = _catalog()["machine_prices"]
    for name, usd in facts["usd_per_hour"].items():
        if name.casefold() == machine.casefold():
            source = f"{facts['region']}: {facts['source']}"
            return MachinePrice(name, float(usd), facts["as_of"], source)
    return None


def dated() -> str:
    """Month up to which the facts were gathered."""
    return str(_catalog()["dated"])


def _to_model(name: str, facts: dict[str, Any]) -> PhiModel:
    tuning = facts["managed_finetuning"]
    price = facts["inference_usd_per_million_tokens"]
    return PhiModel(
        name=name,
        hub_id=facts["hub_id"],
        parameters_billion=facts["parameters_billion"],
        context_tokens=facts["context_tokens"],
        revision=facts["revision"],
        retired_on=facts["serverless"]["retired_on"],
        replacement=facts["serverless"]["replacement"],
        finetuning_regions=tuple(tuning["regions"]) if tuning["supported"] else (),
        finetuning_as_of=tuning["as_of"],
        no_finetuning_because=tuning["reason"] or "",
        price=Price(**price) if price else None,
    )


@lru_cache(maxsize=1)
def _catalog() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("catalog.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
