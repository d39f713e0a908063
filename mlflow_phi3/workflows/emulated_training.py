"""What a fine-tuning job of the emulator runs, as a program of its own.

The emulator puts ``order.json`` and the data into a folder and starts
``python -m mlflow_phi3.workflows.emulated_training`` on it. That leaves ``metrics.jsonl``, which
grows while it trains, and ``model``, an MLflow model. No tracking server is spoken to: the metrics
of a managed job are the service's, which tells them when asked.

Foundry's base models do not fit the machines that the emulator runs on: the demo model stands for
each of them.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_phi3.errors import Phi3Error, TrainingError
from mlflow_phi3.workflows.entry import quieten_libraries

if TYPE_CHECKING:
    from mlflow_phi3.data.prepared import PreparedData
    from mlflow_phi3.training.reports import EvaluationReport, StepReport

_BASE = "demo"


def main(folder: Path) -> int:
    """Train as ordered; return the exit code."""
    quieten_libraries(_BASE)
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    try:
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics:

            def tell(step: int, values: Mapping[str, float]) -> None:
                stamp = int(time.time() * 1000)
                for key, value in values.items():
                    point = {"key": key, "value": value, "step": step, "timestamp": stamp}
                    metrics.write(json.dumps(point) + "\n")
                metrics.flush()

            train(order, folder, tell)
    except Phi3Error as error:
        print(error, file=sys.stderr)  # noqa: T201 - the job's log
        return error.exit_code
    return 0


def train(
    order: Mapping[str, Any], folder: Path, tell: Callable[[int, Mapping[str, float]], None]
) -> None:
    """Prepare, train, merge and save the model.

    Args:
        order: ``train`` and ``validation`` (paths; the second may be empty), ``epochs``,
            ``batch_size`` and ``learning_rate``.
        folder: Where to work.
        tell: Gets the metrics of a step, under the names that transformers' Trainer gives them.

    Raises:
        Phi3Error: The data or the training is at fault.
    """
    from mlflow_phi3.modeling.base import load_base  # after the libraries were quietened
    from mlflow_phi3.training.loop import Session
    from mlflow_phi3.training.reports import EndReport
    from mlflow_phi3.training.spec import TrialSpec

    base = load_base(_BASE)
    data = read(order, base.tokenizer, folder / "prepared")
    spec = TrialSpec(
        learning_rate=order["learning_rate"],
        epochs=order["epochs"],
        per_device_batch_size=order["batch_size"],
    )
    session = Session(
        base, data.examples("train"), data.examples("validation"), folder=folder / "trials"
    )
    session.add("train", spec)
    for report in session.reports():
        if isinstance(report, EndReport):
            end = report
        else:
            tell(report.step, _name_as_trainer(report))
    if end.outcome == "failed" or end.best_checkpoint is None:
        raise TrainingError("PHI3-T008", f"the training failed: {end.reason}")
    _save(base, end.best_checkpoint, folder)


def read(order: Mapping[str, Any], tokenizer: Any, folder: Path) -> "PreparedData":
    """Prepare the data of an order; as :func:`train`.

    The demo stands for models with a longer context: a row that does not fit into its own is cut,
    and one that cannot be cut is left out.

    Raises:
        DataError: There is no row that can be trained on.
    """
    from mlflow_phi3.config.prepare import PrepareConfig
    from mlflow_phi3.data.pipeline import prepare
    from mlflow_phi3.modeling.base import read_context_length

    config = PrepareConfig(
        train_data=order["train"],
        validation_data=order["validation"],
        test_split=0,
        leaks="allow",
        on_error="reject",
        overlength="truncate",
        prepare_workers=1,
    )
    return prepare(config, tokenizer, folder=folder, context_length=read_context_length(_BASE))


def _name_as_trainer(report: "StepReport | EvaluationReport") -> dict[str, float]:
    """A report's numbers under the names of transformers' Trainer."""
    from mlflow_phi3.training.reports import EvaluationReport

    if isinstance(report, EvaluationReport):
        return {"eval_loss": report.loss}
    told = {
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "grad_norm": report.grad_norm,
        "epoch": report.epoch,
    }
    return {name: value for name, value in told.items() if value is not None}


def _save(base: Any, adapter: Path, folder: Path) -> None:
    """Merge the adapter and save the whole as an MLflow model, all of it or nothing."""
    from mlflow_phi3.modeling.merge import merge_adapter
    from mlflow_phi3.serving.package import package_chat
    from mlflow_phi3.tracking.registry import save_model

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        merged = merge_adapter(base, adapter, Path(scratch) / "merged", dtype=base.model.dtype)
        staging = Path(scratch) / "staging"
        staging.mkdir()
        save_model(package_chat(merged, staging), Path(scratch) / "model")
        (Path(scratch) / "model").rename(folder / "model")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
