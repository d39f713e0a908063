"""``main``: prepare, sweep, evaluate, register, as child runs of one run, in one process."""

import os
import shlex

from rich.markup import escape

from mlflow_phi3.azure.names import endpoint_for
from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.config.words import MainWord
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.uris import hide_password
from mlflow_phi3.workflows.check import check_registration, check_search
from mlflow_phi3.workflows.context import Context, greet, open_base, open_context
from mlflow_phi3.workflows.evaluate import check_test, choose_judges, evaluate, show_measures
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.register import Registered, register
from mlflow_phi3.workflows.sweep import name_child, show_trials, sweep


def run(config: MainWord) -> None:
    """Run all four steps and say what came of them."""
    if config.backend == "foundry":
        from mlflow_phi3.workflows import foundry_main

        foundry_main.run(config)
        return
    check_search(config)
    # What is needed last must not fail only after the training.
    choose_judges(config)
    safety_from(os.environ)
    check_registration(config)
    context = open_context(config)
    greet(context, config)
    with context.root("main", config) as root:
        data = prepare_as_child(context, config, root)
        check_test(data)
        base = open_base(config, data)
        with context.child("sweep", config, root, name=name_child(config.study)) as run:
            result, winner = sweep(context, config, base, data, run)
        with context.child("evaluate", config, root) as run:
            measured = evaluate(context, config, base, data, winner, run)
        with context.child("register", config, root) as run:
            registered = register(context, config, base, data, winner, measured.tuned, run)
        root.log_metrics({f"test/{k}": v for k, v in measured.tuned.metrics.items()})
        root.log_metrics({f"base/{k}": v for k, v in measured.base.metrics.items()})
    show_trials(context, result)
    show_measures(context, measured)
    show_next(context, registered, root)


def how_to_look(store: str, run: Run) -> str:
    """What opens the MLflow UI on a tracking store: a server's page of ``run``, else a command."""
    if store.startswith(("http://", "https://")):
        page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
        return f"{hide_password(store).rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {hide_password(store)}"


def show_next(context: Context, registered: Registered, root: Run) -> None:
    """Say how to look at the runs, and how to deploy the winner."""
    say = context.screen.say
    uri = escape(registered.uri)
    say(
        f"\n[bold green]{registered.winner} is {uri}[/]: {escape(registered.why)}",
        event="registered",
        winner=registered.winner,
        model=registered.uri,
        champion=registered.champion,
    )
    name = endpoint_for(registered.name)
    model = escape(shlex.quote(registered.uri))
    create = f"mlflow deployments create --name {name} -m {model} -t azure-foundry"
    look = escape(how_to_look(context.tracker.uri, root))
    say(f"  Look     {look}   [dim]({escape(root.name)})[/]")
    say(f"  Deploy   {create}")
    say(f"  Rehearse {create}:/local   [dim](an emulator; needs no account)[/]")
