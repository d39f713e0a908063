"""Tokens per second and peak memory of one LoRA training: our engine beside TRL, interleaved.

`shipped` is TRL's SFTTrainer with PEFT as it comes: padded, activation checkpointing, bfloat16
where the machine has it. `tuned` is the fastest of its settings: padding-free, no checkpointing,
with Liger's kernels on a GPU where installed. All train the same batches in the same order, each
in a process of its own. `group` is several trials side by side on our engine, measured on a GPU or
where `--trials` asks for it. The last line reads
`vs_tuned=<ratio> vs_shipped=<ratio> peak_vs_tuned=<ratio> util=<share>`; the one before it, with a
group, `group_vs_one=<ratio>`: how many times as fast as one trial after the other.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import training_workload as workload
from machine import describe

from mlflow_phi3.modeling.hardware import has_bfloat16

HERE = Path(__file__).parent
METHODS = ("engine", "tuned", "shipped")
GROUP = "group"
Result = dict[str, Any]


def settings(method: str, device: str, dtype: str) -> dict[str, Any]:
    """TRL's options of ``method``."""
    low = dtype == "bfloat16"
    if method == "shipped":
        # Its bfloat16 is switched off only where the processor would emulate it, many times slower.
        return {"bf16": low}
    options = {"padding_free": True, "gradient_checkpointing": False, "max_length": None}
    if device != "cpu" and importlib.util.find_spec("liger_kernel"):
        options["use_liger_kernel"] = True
    return {**options, "bf16": False}


def measure(method: str, data: str, asked: argparse.Namespace) -> Result:
    """Run one worker and read its line."""
    # As shipped, the weights are float32 and the arithmetic is autocast.
    dtype = "float32" if method == "shipped" else asked.dtype
    flash = asked.device != "cpu" and importlib.util.find_spec("flash_attn")
    command = [sys.executable, str(HERE / "training_worker.py")]
    told = {
        "method": "engine" if method in {"engine", GROUP} else "trl",
        "data": data,
        "size": asked.size,
        "device": asked.device,
        "dtype": dtype,
        "arithmetic": asked.dtype,
        "threads": asked.threads,
        "steps": asked.steps,
        "trials": asked.trials if method == GROUP else 1,
        "options": json.dumps(settings(method, asked.device, asked.dtype)),
        "attention": "flash_attention_2" if flash and method == "tuned" else "sdpa",
    }
    for name, value in told.items():
        command += [f"--{name}", str(value)]
    env = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{method} on {data} failed:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{data:8} {method:8} {result['tokens_per_second']:9.1f} tokens/s "
        f"{result['tokens_per_cpu_second']:9.1f} tokens/CPU s {result['peak_mb']:8.0f} MB "
        f"util {result['util']:.2f}",
        flush=True,
    )
    return {"method": method, "data": data, **result}


def median(results: Sequence[Result], method: str, data: str, key: str) -> float:
    """Median of ``key`` over the repeats."""
    found = [r[key] for r in results if r["method"] == method and r["data"] == data]
    return float(statistics.median(found))


def summarise(results: Sequence[Result], speed: str) -> dict[str, float]:
    """Geometric means over the data sets, as many as were measured, of the medians' ratios."""
    sets = list(dict.fromkeys(result["data"] for result in results))

    def mean_ratio(key: str, other: str, one: str = "engine") -> float:
        ratios = [median(results, one, d, key) / median(results, other, d, key) for d in sets]
        return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))

    grouped = any(result["method"] == GROUP for result in results)
    return {
        **({"group_vs_one": mean_ratio(speed, "engine", GROUP)} if grouped else {}),
        "vs_tuned": mean_ratio(speed, "tuned"),
        "vs_shipped": mean_ratio(speed, "shipped"),
        "peak_vs_tuned": mean_ratio("peak_mb", "tuned"),
        "util": statistics.fmean(median(results, "engine", d, "util") for d in sets),
    }


def save(found: dict[str, Any], asked: argparse.Namespace) -> None:
    """Write the results with the settings that they were measured with."""
    found["settings"] = {**vars(asked), "sets": asked.sets.split(",")}
    found["trl"] = {name: settings(name, asked.device, asked.dtype) for name in METHODS[1:]}
    name = "training.json" if asked.device == "cpu" else "training-cuda.json"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", choices=workload.SHAPES, help="small, or mini on a GPU")
    parser.add_argument("--dtype", help="the base's: bfloat16 where the machine has it")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, help="2, on a GPU 1")
    parser.add_argument("--steps", type=int, help="counted, after one that is not; 2, on a GPU 20")
    parser.add_argument("--trials", type=int, help="of the group; 12 on a GPU, else none")
    parser.add_argument("--sets", default="samsum,tailed")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the ratios")
    parser.add_argument("--quick", action="store_true", help="one repeat, one step; not written")
    asked = parser.parse_args()
    on_cpu = asked.device == "cpu"
    fast_low = has_bfloat16(asked.device)
    asked.dtype = asked.dtype or ("bfloat16" if fast_low else "float32")
    asked.size = asked.size or ("small" if on_cpu else "mini")
    asked.steps = asked.steps or (2 if on_cpu else 20)
    asked.trials = asked.trials or (1 if on_cpu else 12)
    asked.repeats = asked.repeats or (2 if on_cpu else 1)
    if asked.quick:
        asked.repeats, asked.steps = 1, 1
    if not workload.SHARED.is_dir():
        raise SystemExit(f"the tokenizer and chats are read from {workload.SHARED}")
    about = describe("torch", "transformers", "peft", "trl")
    speed = "tokens_per_second" if asked.clock == "wall" else "tokens_per_cpu_second"
    summary: dict[str, float] = {}
    results: list[Result] = []
    for repeat in range(asked.repeats):
        for data in asked.sets.split(","):
            methods = METHODS if asked.trials == 1 else (*METHODS, GROUP)
            results += [{"repeat": repeat, **measure(name, data, asked)} for name in methods]
            summary = summarise(results, speed)
            if not asked.quick:  # at once: a machine may be lent for less than the whole takes
                save({**about, "summary": summary, "results": results}, asked)
    group = summary.pop("group_vs_one", None)
    if group is not None:
        print(f"group_vs_one={group:.2f}")
    print(" ".join(f"{name}={value:.2f}" for name, value in summary.items()))


if __name__ == "__main__":
    main()
