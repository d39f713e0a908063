"""``mlflow-phi3 models``: which Phi can be tuned where, at what price, until when."""

import dataclasses
import json
from typing import Any

import typer

from mlflow_phi3.azure.registry import Offer, look_up_offers
from mlflow_phi3.cli.options import AS_JSON, TARGET
from mlflow_phi3.errors import AzureError, PreflightError
from mlflow_phi3.foundry.offers import Tuning, tuning_of
from mlflow_phi3.foundry.project import find_place
from mlflow_phi3.modeling.catalog import (
    PhiModel,
    dated,
    describe,
    list_models,
    require_tunable,
)
from mlflow_phi3.workflows.screen import Screen

app = typer.Typer()

_NAME = typer.Argument(
    "", help="One model, with all that is known of it; without a name, the list."
)
_FOR = typer.Option("", "--for", help="Only models that can be tuned there: `local` or `foundry`.")
_LIVE = typer.Option(
    None, "--live/--no-live", help="Ask Azure's registry; the default where a project is known."
)
ADAPTER = "LoRA on all linear layers"
"""What both ways train: Foundry's managed tuning is LoRA as well."""


@app.command("models")
def models_command(
    name: str = _NAME,
    *,
    tuned_by: str = _FOR,
    live: bool | None = _LIVE,
    target: str = TARGET,
    as_json: bool = AS_JSON,
) -> None:
    """List the Phi models: where each can be tuned, regions, price, retirement.

    With `--for foundry` a named model that Foundry does not tune is refused (exit code 4), with
    the date and the replacement of a retired one.
    """
    _check_way(tuned_by)
    known = (require_tunable if tuned_by == "foundry" else describe)(name) if name else None
    found = list_models() if known is None else (known,)
    offers, told = _offers(found, target, live)
    rows = [_facts(model, tuning_of(model, offers)) for model in found]
    if tuned_by:
        rows = [row for row in rows if row[f"tuned_by_{tuned_by}"]]
    if as_json:
        typer.echo(json.dumps({"dated": dated(), "live": told, "models": rows}, indent=2))
        return
    screen = Screen()
    if known is not None and rows:
        facts = {fact.replace("_", " "): _text(value) for fact, value in rows[0].items()}
        screen.table(known.name, ["fact", "value"], [[*one] for one in facts.items() if one[1]])
    else:
        screen.table("Phi models", _COLUMNS, [_row(row) for row in rows])
        screen.say(
            "Locally: mlflow-phi3 train --model microsoft/<model>. By Foundry: --backend foundry."
        )
    screen.say(f"Facts of {dated()}; " + (f"regions as of now from {told}" if told else _NOT_LIVE))


_COLUMNS = ["model", "B", "locally", "by Foundry", "USD per 1M in/out", "retired, take instead"]
_NOT_LIVE = "--live asks the registry for today's regions"


def _check_way(tuned_by: str) -> None:
    if tuned_by not in {"", "local", "foundry"}:
        raise typer.BadParameter("local or foundry", param_hint="--for")


def _offers(
    models: tuple[PhiModel, ...], target: str, live: bool | None
) -> tuple[dict[str, Offer] | None, str | None]:
    """What the registry says, and its name; None where nobody told a project."""
    if live is False:
        return None, None
    names = tuple(model.name for model in models)
    try:
        return look_up_offers(find_place(target).open_account(), names), "the registry azureml"
    except (PreflightError, AzureError) as nobody:
        if live:
            raise
        if isinstance(nobody, AzureError):  # a project is told, and yet nobody answers
            typer.echo(f"not live: {nobody}", err=True)
        return None, None


def _facts(model: PhiModel, tuning: Tuning) -> dict[str, Any]:
    """Everything that is known of a model."""
    price = model.price
    return {
        "name": model.name,
        "hub_id": model.hub_id,
        "parameters_billion": model.parameters_billion,
        "context_tokens": model.context_tokens,
        "tuned_by_local": True,
        "tuned_by_foundry": not tuning.why_not,
        "adapter": ADAPTER,
        "regions": list(tuning.regions),
        "regions_as_of": tuning.as_of,
        "registry_version": tuning.version or None,
        "not_by_foundry_because": tuning.why_not,
        "instead": tuning.instead,
        "price": None if price is None else dataclasses.asdict(price),
        "retired_on": model.retired_on,
        "replacement": model.replacement,
    }


def _row(facts: dict[str, Any]) -> list[str]:
    price = facts["price"]
    retired = facts["retired_on"]
    regions = ", ".join(facts["regions"]) if facts["tuned_by_foundry"] else "no"
    return [
        facts["name"],
        f"{facts['parameters_billion']:g}",
        "LoRA",
        f"LoRA: {regions}" if facts["tuned_by_foundry"] else regions,
        f"{price['input']:g} / {price['output']:g} ({price['as_of']})" if price else "not known",
        f"{retired}, {facts['replacement']}" if retired else "",
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
