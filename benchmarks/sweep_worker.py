"""What `sweep.py` starts: a trial with TRL, our whole sweep, or the store; prints one JSON line."""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sweep_workload import load_examples

from mlflow_phi3.data.messages import Example

BATCH = 8


def train_with_trl(asked: argparse.Namespace) -> dict[str, Any]:
    """One trial as people write it: SFTTrainer on a PEFT model, then its validation loss.

    It begins with our initial adapter and sees our batches in our order, so that both learn the
    same; the epochs lie one after the other in the data set.
    """
    import transformers  # not in our process
    from datasets import Dataset, disable_progress_bar
    from peft import PeftModel
    from trl import SFTConfig, SFTTrainer

    from mlflow_phi3.training.schedule import order_examples
    from mlflow_phi3.training.spec import TrialSpec

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.base)
    train, validation = load_examples(asked.data, tokenizer, asked.rows)
    spec = TrialSpec(asked.learning_rate, asked.multiplier, asked.epochs)
    order = [at for epoch in range(asked.epochs) for at in order_examples(spec, epoch, len(train))]
    rows = [(train[at].input_ids.tolist(), train[at].supervised.tolist()) for at in order]
    labels = [[i if s else -100 for i, s in zip(ids, s, strict=True)] for ids, s in rows]
    base = transformers.AutoModelForCausalLM.from_pretrained(asked.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, asked.adapter, is_trainable=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                use_cpu=True,
                per_device_train_batch_size=BATCH,
                gradient_accumulation_steps=asked.multiplier,
                num_train_epochs=1,
                learning_rate=asked.learning_rate,
                lr_scheduler_type="constant",
                train_sampling_strategy="sequential",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                seed=0,
                **asked.options,
            ),
            train_dataset=Dataset.from_dict(
                {"input_ids": [ids for ids, _ in rows], "labels": labels}
            ),
            processing_class=tokenizer,
        )
        began = time.perf_counter()
        trainer.train()
        training_s = time.perf_counter() - began
    return {"loss": measure_loss(trainer.model.eval(), validation), "training_s": training_s}


def measure_loss(model: Any, examples: Sequence[Example]) -> float:
    """Negative log-likelihood over supervised tokens, plainly."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for example in examples:
            ids = torch.from_numpy(example.input_ids.astype(np.int64))
            logits = model(input_ids=ids[None]).logits[0, :-1].float()
            wanted = torch.from_numpy(example.supervised[1:])
            total += float(
                torch.nn.functional.cross_entropy(logits[wanted], ids[1:][wanted], reduction="sum")
            )
            tokens += int(wanted.sum())
    return total / tokens


def sweep_with_ours(asked: argparse.Namespace) -> dict[str, Any]:
    """The whole sweep as the workflow runs it: Optuna, engine, MLflow, report."""
    import optuna  # not in TRL's process

    from mlflow_phi3.config.parse import parse_values
    from mlflow_phi3.config.sweep import SweepConfig
    from mlflow_phi3.modeling.base import load_base
    from mlflow_phi3.sweep.run import run_sweep
    from mlflow_phi3.sweep.storage import find_storage
    from mlflow_phi3.tracking.tracker import open_tracker

    config = parse_values(SweepConfig, asked.options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = open_tracker(uri=f"sqlite:///{asked.store}/mlflow.db")
        base = load_base(asked.base, precision=asked.precision)
        train, validation = load_examples(asked.data, base.tokenizer, asked.rows)
        steps_at: list[float] = []
        with tracker.stage("sweep", stage="sweep") as run:
            result = run_sweep(
                config,
                base=base,
                train=train,
                validation=validation,
                tracker=tracker,
                parent=run,
                folder=folder / "trials",
                tags={},
                on_progress=lambda _: steps_at.append(time.perf_counter()),
            )
        training_s = time.perf_counter() - steps_at[0]
        storage = find_storage(config.storage, tracker.uri)
        study = optuna.load_study(study_name=result.study, storage=storage)
        last = [trial.intermediate_values.get(trial.last_step or 0) for trial in study.trials]
    return {
        "winner": result.winner.number,
        "training_s": training_s,
        "trials": [
            {"state": trial.state, "loss": loss, **trial.params}
            for trial, loss in zip(result.trials, last, strict=True)
        ],
    }


def make_store(asked: argparse.Namespace) -> dict[str, Any]:
    """MLflow's tables, which its first run makes."""
    from mlflow_phi3.tracking.tracker import open_tracker

    Path(asked.store).mkdir()
    return {"uri": open_tracker(uri=f"sqlite:///{asked.store}/mlflow.db").uri}


def main() -> None:
    """Do what was asked and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("trl", "ours", "store"))
    parser.add_argument("--base")
    parser.add_argument("--store", help="folder of MLflow's tables")
    parser.add_argument("--adapter")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--multiplier", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--options", type=json.loads, default={})
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    do = {"trl": train_with_trl, "ours": sweep_with_ours, "store": make_store}[asked.method]
    print(json.dumps(do(asked)))


if __name__ == "__main__":
    main()
