"""``main``: prepare, sweep, evaluate, register, as child runs of one run, in one process."""

import os

from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.config.words import MainWord
from mlflow_phi3.workflows.check import check_registration, check_search
from mlflow_phi3.workflows.context import greet, open_base, open_context
from mlflow_phi3.workflows.evaluate import check_test, choose_judges, evaluate, show_measures
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.register import register, show_next
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
