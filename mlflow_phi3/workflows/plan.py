"""``plan``: the data prepared, the engine tried for some steps, and what the rest will take."""

import datetime as dt
from dataclasses import asdict
from pathlib import Path

from mlflow_phi3.azure.prices import look_up_hourly
from mlflow_phi3.config.plan import PlanWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import UsageError
from mlflow_phi3.files import folder_bytes
from mlflow_phi3.modeling.base import DEMO
from mlflow_phi3.modeling.catalog import (
    TrainingPrice,
    describe,
    find_machine_price,
    require_tunable,
    training_price,
)
from mlflow_phi3.sweep.budget import plan_budget
from mlflow_phi3.sweep.space import Space, build_space
from mlflow_phi3.training.probe import Probe, probe
from mlflow_phi3.workflows.context import open_base
from mlflow_phi3.workflows.estimate import (
    Line,
    Prices,
    Range,
    Work,
    count_work,
    estimate_foundry,
    estimate_hosting,
    estimate_local,
)
from mlflow_phi3.workflows.prepare import prepare_data
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.task import fit_to_data

_SIDE_BY_SIDE = 4
"""As many as train together on a CPU; a GPU takes more, which is then faster than planned."""


def run(config: PlanWord) -> None:
    """Print the plan."""
    screen = Screen(config.output)
    # What is wrong with a model or a price is told before minutes of preparation.
    if config.jobs or config.backend == "foundry":
        require_tunable(_foundry_model(config))
    prices = _prices(config)
    # As the sweep will, which then finds it done.
    data = prepare_data(config, Path(config.workspace).resolve(), screen)
    space = build_space(fit_to_data(config, data), model=config.model, seed=config.seed)
    work = count_work(
        space,
        n_trials=config.n_trials,
        share_epochs=config.share_epochs and config.backend != "foundry",
        rows=data.manifest.splits["train"].rows,
    )
    local = _local_lines(config, space, work, data, prices, screen)
    lines = (
        *_data_lines(data),
        *local,
        *_foundry_lines(config, work, data, prices),
        *estimate_hosting(config.million_tokens_a_month, prices),
    )
    _show(screen, config, lines)


def _foundry_model(config: PlanWord) -> str:
    """The model that they tune: the sweep's own where it is one of Foundry's."""
    own = config.backend == "foundry" and config.model != DEMO
    return config.model if own else config.foundry_model


def _local_lines(
    config: PlanWord, space: Space, work: Work, data: PreparedData, prices: Prices, screen: Screen
) -> tuple[Line, ...]:
    """What this machine will do; nothing where Foundry trains."""
    if config.backend == "foundry":
        return ()
    splits = data.manifest.splits
    return estimate_local(
        work,
        _probe(config, space, data, screen),
        train_tokens=splits["train"].tokens,
        validation_tokens=splits["validation"].tokens,
        prices=prices,
        prepared_bytes=folder_bytes(data.folder),
    )


def _probe(config: PlanWord, space: Space, data: PreparedData, screen: Screen) -> Probe:
    with screen.stage("probe") as update:
        update("loading the model")
        return probe(
            open_base(config, data),
            data.examples("train"),
            data.examples("validation"),
            space.largest(),
            side_by_side=min(config.concurrency or _SIDE_BY_SIDE, config.n_trials),
            steps=config.probe_steps,
            on_step=lambda step, of: update(f"step {step}/{of} of the real engine", step / of),
        )


def _prices(config: PlanWord) -> Prices:
    training = training_price()
    if config.training_usd_per_million:
        training = TrainingPrice(config.training_usd_per_million, str(_today()), "as given")
    budget = plan_budget(config)
    return Prices(
        usd_per_hour=budget.usd_per_hour,
        usd_source=budget.source,
        training=training,
        inference=describe(_foundry_model(config)).price,
        hosting=_hosting(config),
        instances=config.instance_count,
    )


def _hosting(config: PlanWord) -> tuple[float, str] | None:
    """What an hour of a machine costs and where that is from; None where it is not known."""
    if config.hosting_usd_per_hour:
        return config.hosting_usd_per_hour, f"as given, {_today()}"
    if not config.live_prices:
        price = find_machine_price(config.instance_type)
        if price is None:
            return None
        return price.usd_per_hour, f"{price.machine}, {price.as_of}, {price.source}"
    found = look_up_hourly(config.instance_type, config.region, _today())
    if found is None:
        raise UsageError(
            "PHI3-U763",
            f"the price list has no {config.instance_type} in {config.region}",
            where="instance_type",
            fix="check both names, or give --hosting_usd_per_hour",
        )
    return found.usd_per_hour, f"{config.instance_type}, {found.as_of}, {found.source}"


def _data_lines(data: PreparedData) -> tuple[Line, ...]:
    source = f"exact: this tokenizer and template, preparation {data.manifest.key[:12]}"
    lines = []
    for name, facts in data.manifest.splits.items():
        for what, count in (("rows", facts.rows), ("tokens", facts.tokens)):
            lines.append(Line("data", f"{name} {what}", Range(count, count), "", source))
    return tuple(lines)


def _foundry_lines(
    config: PlanWord, work: Work, data: PreparedData, prices: Prices
) -> tuple[Line, ...]:
    jobs = work.trials if config.backend == "foundry" else config.jobs
    if not jobs:
        return ()
    epochs = Range(work.passes.low / work.trainings, work.passes.high / work.trainings)
    if config.backend != "foundry":  # jobs that follow the sweep: at most its longest training
        epochs = Range(epochs.high, epochs.high)
    tuned = describe(_foundry_model(config)).hub_id
    counted = "exact: training tokens x epochs"
    if tuned.casefold() != config.model.casefold():
        counted = f"counted by the tokenizer of {config.model}: --model {tuned} for exact figures"
    return estimate_foundry(
        epochs,
        jobs,
        train_tokens=data.manifest.splits["train"].tokens,
        counted=counted,
        prices=prices,
    )


def _show(screen: Screen, config: PlanWord, lines: tuple[Line, ...]) -> None:
    if config.output == "json":
        for line in lines:
            screen.facts("plan", **asdict(line))
    else:
        # A source that several lines share stands beside the first.
        above = ["", *(line.source for line in lines)]
        rows = [
            [f"{line.section}: {line.what}", _amount(line), line.source * (line.source != told)]
            for line, told in zip(lines, above, strict=False)
        ]
        screen.table(f"Plan for {config.model}", ["what", "amount", "source"], rows)
    screen.say("Nothing was spent or sent. Prices are estimates; your invoice decides.")


def _amount(line: Line) -> str:
    return "?" if line.amount is None else f"{line.amount} {line.unit}".strip()


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()
