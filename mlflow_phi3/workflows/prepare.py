"""``prepare``: from the person's files to examples, checked and described."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from mlflow_phi3.config.parse import narrow
from mlflow_phi3.config.prepare import SPLITS, PrepareConfig
from mlflow_phi3.config.words import PrepareWord
from mlflow_phi3.data import pipeline
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.evaluation.notation import count_of
from mlflow_phi3.foundry.repeat import write_repeat_data
from mlflow_phi3.modeling.base import load_tokenizer, read_context_length
from mlflow_phi3.tracking.datasets import DatasetFacts, log_datasets
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import DATASET_TAG, TEMPLATE_TAG
from mlflow_phi3.workflows.context import Context, greet, open_context
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.task import show_balance


def run(config: PrepareWord) -> None:
    """Run the step by itself."""
    context = open_context(config)
    greet(context, config)
    with context.root("prepare", config) as root:
        prepare(context, config, root)


def prepare_as_child(context: Context, config: PrepareWord, parent: Run) -> PreparedData:
    """Run the step as a child run of ``parent``."""
    with context.child("prepare", config, parent) as run:
        return prepare(context, config, run)


def prepare(context: Context, config: PrepareWord, run: Run) -> PreparedData:
    """Check, clean, split and tokenise; what came out is logged to ``run``."""
    data = prepare_data(config, context.workspace, context.screen)
    _log(run, data)
    counts = data.manifest.counts
    sizes = ", ".join(f"{name} {facts.rows}" for name, facts in data.manifest.splits.items())
    kind = "text" if data.manifest.labels else "conversation"
    context.screen.say(
        f"  {count_of(counts.rows_in, kind)}: {sizes}; "
        f"{count_of(counts.duplicates, 'duplicate')}, {counts.rejected} rejected; "
        f"report: {escape(str(_shown(data.folder / 'report.html')))}",
        event="prepared",
        **{name: facts.rows for name, facts in data.manifest.splits.items()},
        rows_in=counts.rows_in,
        duplicates=counts.duplicates,
        rejected=counts.rejected,
        folder=str(data.folder),
    )
    if data.manifest.labels:
        context.screen.say(f"  labels: {escape(show_balance(data))}")
    warn(context.screen, data)
    return data


def warn(screen: Screen, data: PreparedData) -> None:
    """Say each warning with its first place; all places are in ``findings.jsonl``."""
    for found in data.warnings:
        first = found["examples"][0]
        told = f"{first['place']}: {first['problem']} (rule: {found['rule']})"
        screen.say(
            f"  [yellow]warning[/] {found['count']} x {found['code']}, first at {escape(told)}",
            event="warning",
            **{name: found[name] for name in ("code", "rule", "count", "fix")},
            **first,
        )


def prepare_data(config: PrepareWord, workspace: Path, screen: Screen) -> PreparedData:
    """Check, clean, split and tokenise; what lies in ``workspace`` already is not done again."""
    revision = config.model_revision or None
    with screen.stage("prepare") as update:
        # Before the tokenizer: for one, transformers asks a hub that is away twice over.
        length = read_context_length(config.model, revision=revision)
        return pipeline.prepare(
            narrow(config, PrepareConfig),
            load_tokenizer(config.model, revision=revision),
            folder=workspace / "prepared",
            context_length=length,
            on_progress=update,
        )


def dataset_facts(data: PreparedData, splits: Sequence[str] = SPLITS) -> list[DatasetFacts]:
    """The splits as MLflow's dataset inputs."""
    sources = data.manifest.sources
    return [
        DatasetFacts(
            name=sources[0].name,
            split=split,
            sha256=data.manifest.splits[split].sha256,
            source=", ".join(source.name for source in sources),
            rows=data.manifest.splits[split].rows,
            tokens=data.manifest.splits[split].tokens,
            supervised_tokens=data.manifest.splits[split].supervised,
        )
        for split in splits
    ]


def log_repeat_data(data: PreparedData, run: Run) -> None:
    """Log the data beside ``azure/job.yaml``, as a job of Foundry would read it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in write_repeat_data(data, Path(folder)):
            run.log_file(path, "azure")


def _shown(path: Path) -> Path:
    """A path as the person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _log(run: Run, data: PreparedData) -> None:
    manifest = data.manifest
    run.set_tags({DATASET_TAG: manifest.sha256, TEMPLATE_TAG: manifest.template_sha256})
    log_datasets(run, dataset_facts(data))
    counts = manifest.counts
    metrics = {
        "data/rows_in": counts.rows_in,
        "data/kept": counts.kept,
        "data/rejected": counts.rejected,
        "data/duplicates": counts.duplicates,
        "data/warnings": sum(found["count"] for found in data.warnings),
    }
    if manifest.labels:
        balance = {name: dict(facts.labels) for name, facts in manifest.splits.items()}
        run.log_json({"index": dict(manifest.labels), "rows": balance}, "data/labels.json")
    for name, facts in manifest.splits.items():
        metrics[f"data/{name}_rows"] = facts.rows
        metrics[f"data/{name}_tokens"] = facts.tokens
        metrics[f"data/{name}_supervised_tokens"] = facts.supervised
    run.log_metrics(metrics)
    for path in data.artifacts:
        run.log_file(path, "data")
