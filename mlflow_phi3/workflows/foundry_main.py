"""``main`` with ``backend=foundry``: prepare, one job a trial, and the winner registered.

What ``main`` does besides needs the weights, which stay in Foundry: measuring the winner on the
test split, merging it, and proving it portable. So the winner is the job with the lowest validation
loss, and the registered version is a link to its model in Azure.
"""

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.words import MainWord
from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.tags import TARGET_TAG
from mlflow_phi3.workflows.context import greet, open_context
from mlflow_phi3.workflows.following import register_tuned_model
from mlflow_phi3.workflows.foundry import check
from mlflow_phi3.workflows.foundry_sweep import search
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.sweep import name_child, show_trials

LEFT_OUT = "phi3.left_out"
"""Tag of a ``main`` run: the steps that it could not do."""
_LOCAL_STEPS = frozenset({*EvaluateConfig.model_fields, *RegisterConfig.model_fields})


def run(config: MainWord) -> None:
    """Run the steps that Foundry has, as child runs of one run.

    Raises:
        UsageError: A setting that only a local evaluation or registration has.
        TrainingError: No trial was completed.
    """
    _check_steps(config)
    destination = check(config)
    context = open_context(config)
    greet(context, config)
    with context.root("main", config) as root:
        data = prepare_as_child(context, config, root)
        with context.child("sweep", config, root, name=name_child(config.study)) as run:
            result, model = search(context, config, data, run, destination)
        with context.tracker.stage("register", stage="register", parent=root) as run:
            run.set_tags({TARGET_TAG: config.azure_target})
            register_tuned_model(context, run, model, config.tuned_model)
        root.log_metrics({"eval/loss": result.winner.loss})
        root.set_tags({LEFT_OUT: "evaluate", TARGET_TAG: config.azure_target})
    show_trials(context, result)
    context.screen.say(
        "The test split was not measured: the weights stay in Foundry. Once it is deployed, "
        "[bold]mlflow-phi3 try[/] asks it golden queries."
    )


def _check_steps(config: MainWord) -> None:
    given = sorted(_LOCAL_STEPS & config.model_fields_set)
    if given:
        raise UsageError(
            "PHI3-U785",
            "weights that Foundry tuned stay there: they are not evaluated or merged here",
            where=", ".join(given),
            fix="leave it out (tuned_model names the registered model), or train with "
            "backend=local",
        )
