"""One measured training in a process of its own; prints one JSON line. Started by `training.py`."""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import training_workload as workload

from mlflow_phi3.data.messages import Example

BATCH = 8
LEARNING_RATE = 2e-4


@dataclass(slots=True)
class Clock:
    """Counts each trial's steps after its first until there are enough, by wall and CPU time."""

    wanted: int
    trials: int = 1
    tokens: int = 0
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    began: tuple[float, float] = (0.0, 0.0)
    ended: tuple[float, float] = (0.0, 0.0)

    def tick(self, tokens: int, loss: float | None = None) -> bool:
        """One more step; whether that is enough."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        self.steps += 1
        if loss is not None:
            self.losses.append(loss)
        if self.steps <= self.trials:
            self.began = now
            return False
        self.tokens += tokens
        self.ended = now
        return self.steps >= self.trials * (1 + self.wanted)


def run_engine(examples: Sequence[Example], model: Any, clock: Clock) -> None:
    """Our own engine, as the workflows run it."""
    from mlflow_phi3.modeling.base import Base  # not in TRL's process
    from mlflow_phi3.training.loop import Session
    from mlflow_phi3.training.reports import StepReport
    from mlflow_phi3.training.spec import LoraSpec, TrialSpec

    base = Base(model.requires_grad_(requires_grad=False), None, "random", "0", "random")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(base, examples, [], folder=Path(folder), engine="fused")
        lora = LoraSpec(r=workload.LORA["r"], alpha=workload.LORA["lora_alpha"])
        for number in range(clock.trials):
            # Another rate each: equal trials would be computed once.
            rate = LEARNING_RATE * (1 - number / (2 * clock.trials))
            spec = TrialSpec(rate, epochs=1000, warmup_ratio=0.0, lora=lora, shuffle=False)
            session.add(f"trial-{number}", spec)
        reports = session.reports()
        for report in reports:
            if isinstance(report, StepReport) and clock.tick(report.tokens or 0, report.loss):
                break
        reports.close()


def run_trl(examples: Sequence[Example], model: Any, clock: Clock, options: dict[str, Any]) -> None:
    """TRL's SFTTrainer with a PEFT adapter, on the same batches in the same order."""
    import transformers  # not in our process
    from datasets import Dataset, disable_progress_bar
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    disable_progress_bar()
    rows = [(e.input_ids.tolist(), e.supervised.tolist()) for e in examples]
    labels = [[i if s else -100 for i, s in zip(ids, s, strict=True)] for ids, s in rows]
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})
    counted: list[int] = []

    class Stop(transformers.TrainerCallback):  # type: ignore[misc]  # transformers' types are not followed
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - transformers calls it so
            # The collator runs ahead of the steps by the batches it prefetches.
            control.should_training_stop = clock.tick(counted[state.global_step - 1])

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                max_steps=10000,
                train_sampling_strategy="sequential",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=model.device.type == "cpu",
                **options,
            ),
            train_dataset=data,
            processing_class=workload.load_tokenizer(),
            peft_config=LoraConfig(
                **workload.LORA, target_modules=workload.LAYERS, task_type="CAUSAL_LM"
            ),
            callbacks=[Stop()],
        )
        collate = trainer.data_collator

        def count(batch: list[dict[str, Any]]) -> Any:
            counted.append(sum(len(row["input_ids"]) for row in batch))
            return collate(batch)

        trainer.data_collator = count
        trainer.train()


def main() -> None:
    """Measure one method and print what came out."""
    parser = argparse.ArgumentParser()
    for name, kind in {
        "method": str,
        "data": str,
        "size": str,
        "device": str,
        "dtype": str,
        "arithmetic": str,
    }.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--trials", type=int, default=1, help="side by side, of our engine")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--attention", default="sdpa")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    examples = workload.samsum() if asked.data == "samsum" else workload.tailed()
    # No epoch ends while it is measured: ours would write a checkpoint.
    examples *= 1 + BATCH * (1 + asked.steps) // len(examples)
    dtype = getattr(torch, asked.dtype)
    model = workload.new_model(asked.size, dtype, asked.device, asked.attention)
    low = getattr(torch, asked.arithmetic)
    rate = workload.matrix_rate(low, asked.device)
    clock = Clock(asked.steps, asked.trials)
    if asked.device != "cpu":
        torch.cuda.reset_peak_memory_stats()  # the weights were float32 while they were drawn
    if asked.method == "engine":
        run_engine(examples, model, clock)
    else:
        run_trl(examples, model, clock, asked.options)
    wall, busy = (end - begin for begin, end in zip(clock.began, clock.ended, strict=True))
    rate = max(rate, workload.matrix_rate(low, asked.device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if asked.device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    seen = examples[BATCH : BATCH * (1 + clock.wanted)]
    # On a CPU both are counted by processor time, which others on the machine do not lengthen.
    seconds = busy if asked.device == "cpu" else wall
    flops = asked.trials * workload.unavoidable_flops(asked.size, seen)
    result = {
        "tokens_per_second": clock.tokens / wall,
        "tokens_per_cpu_second": clock.tokens / busy,
        "util": flops / seconds / rate,
        "matrix_flops_per_second": rate,
        "peak_mb": peak,
        "tokens": clock.tokens,
        "losses": clock.losses,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
