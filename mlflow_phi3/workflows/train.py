"""``train``: one LoRA training with given hyperparameters, as a run with its best adapter."""

import math

from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import TrainingError, UsageError
from mlflow_phi3.foundry.repeat import YAML, repeat_yaml
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.sweep.space import flat_params, pinned_spec
from mlflow_phi3.sweep.trial_run import BEST, TrialRun, accuracy_of
from mlflow_phi3.tracking.datasets import log_datasets
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.reports import EndReport, EvaluationReport, StepReport
from mlflow_phi3.workflows import foundry
from mlflow_phi3.workflows.check import check_training
from mlflow_phi3.workflows.context import Context, greet, open_base, open_context
from mlflow_phi3.workflows.continued import check_start, find_start, shaped_as
from mlflow_phi3.workflows.ending import show_look
from mlflow_phi3.workflows.prepare import dataset_facts, log_repeat_data, prepare_as_child
from mlflow_phi3.workflows.task import fit_to_data

LOSSES = "eval/losses_by_epoch.json"
"""A table: the loss of each validation row at each evaluation, with its source line."""


def run(config: TrainWord) -> None:
    """Run the step by itself, here or in Foundry; its preparation is a child run."""
    if config.backend == "foundry":
        if config.continue_from:
            raise UsageError(
                "PHI3-U770",
                "a fine-tuning job of Foundry begins with a base model",
                where="continue_from",
                fix="leave it out, and train on all of the data; or --backend local",
            )
        foundry.run(config)
        return
    check_training(config)
    check_start(config.continue_from)
    context = open_context(config)
    greet(context, config)
    with context.root("train", config) as root:
        data = prepare_as_child(context, config, root)
        end = train(context, config, open_base(config, data), data, root)
    told = f"Best validation loss {end.best_loss:.4f}; its adapter"
    if math.isnan(end.best_loss):
        told = "There was nothing to validate on; the last adapter"
    context.screen.say(f"{told} is the artifact {BEST} of run {root.run_id}")
    show_look(context, root)


def train(
    context: Context, config: TrainWord, base: Base, data: PreparedData, run: Run
) -> EndReport:
    """Train one adapter; numbers and the best checkpoint go to ``run``.

    Raises:
        TrainingError: The loss or the weights are no longer numbers.
    """
    spec = pinned_spec(fit_to_data(config, data), model=config.model, seed=config.seed)
    start = find_start(context, base, config.continue_from) if config.continue_from else None
    if start is not None:
        spec = shaped_as(spec, start)
        run.set_tags({"phi3.continued_from": config.continue_from})
    run.log_params({f"resolved.{name}": value for name, value in flat_params(spec).items()})
    run.set_tags(base.tags)
    log_datasets(run, dataset_facts(data, ("train", "validation")))
    log = TrialRun(run, accuracy=accuracy_of(base.labels))
    session = Session(
        base,
        data.examples("train"),
        data.examples("validation"),
        folder=context.workspace / "trials" / f"train-{run.run_id}",
    )
    session.add("train", spec, adapter=start)
    by_epoch: dict[str, list[object]] = {
        "place": [example.place for example in data.examples("validation")]
    }
    with context.screen.stage("train") as update:
        for report in session.reports():
            match report:
                case StepReport():
                    log.log_step(report)
                    update(
                        f"step {report.step}/{report.total_steps} loss {report.loss:.3f} "
                        f"{report.tokens_per_second:,.0f} tokens/s",
                        report.step / report.total_steps,
                    )
                case EvaluationReport():
                    log.log_evaluation(report)
                    by_epoch[f"epoch {report.epoch:.3g}"] = list(report.example_losses)
                case EndReport():
                    end = report
    if end.outcome == "failed":
        raise TrainingError("PHI3-T004", f"the training failed: {end.reason}")
    if end.best_checkpoint is not None:
        run.log_folder(end.best_checkpoint, BEST)
    if len(by_epoch) > 1:
        run.log_table(by_epoch, LOSSES)
    if config.task == "chat-completion":  # Foundry learns no labels
        run.log_text(repeat_yaml(spec, config.model), YAML)
        log_repeat_data(data, run)
    return end
