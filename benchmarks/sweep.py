"""Wall-clock of a 12-trial sweep: ours beside the ordinary way, at the same losses.

The ordinary way is Optuna and a process a trial, each with TRL's SFTTrainer and PEFT: `shipped`, as
they come (padded, activation checkpointing, bfloat16 autocast where the machine has it), and
`tuned`, the fastest of their settings (padding-free, no checkpointing, float32). Ours is the sweep
of this package with all that it logs: `whole`, every trial to its end, and `pruned`, successive
halving. All train the same trials from the same initial adapter on the same batches; our losses are
compared with `tuned`, which computes in float32 as ours does. The last line reads
`vs_ordinary=<ratio> vs_ordinary_pruned=<ratio> worst_loss_difference=<share>`, where ordinary is
`shipped`; the line before it gives the ratios to `tuned`.
"""

import argparse
import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from mlflow_phi3.modeling.base import load_tokenizer
from mlflow_phi3.modeling.hardware import has_bfloat16
from mlflow_phi3.training.adapters import find_linear, initial_weights, plan_layout, save_adapter
from mlflow_phi3.training.spec import LoraSpec

HERE = Path(__file__).parent
SHAPE = {
    "hidden_size": 320,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 864,
}
Axes = dict[str, tuple[float, ...]]
AXES: Axes = {
    "learning_rate": (5e-4, 3e-3),
    "batch_size_multiplier": (1, 2),
    "epochs": (1, 2, 3),
}
QUICK: Axes = {"learning_rate": (5e-4, 3e-3), "batch_size_multiplier": (2,), "epochs": (1, 2)}
LORA = LoraSpec(r=16, alpha=32.0)
Result = dict[str, Any]


def make_base(folder: Path) -> None:
    """A random Phi-3 of about 10 M weights with the demo's tokenizer, and the first adapter."""
    tokenizer = load_tokenizer("demo")
    torch.manual_seed(0)
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Phi3Config(**SHAPE, vocab_size=len(tokenizer), bos_token_id=None, **special)
    model = Phi3ForCausalLM(config).eval().requires_grad_(requires_grad=False)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    linear = find_linear(model)
    layout = plan_layout(linear, LORA)
    (folder / "adapter").mkdir()
    first = initial_weights(linear, layout, seed=0)
    save_adapter(folder / "adapter", layout, first, str(folder / "base"))


def start(arguments: list[str], asked: argparse.Namespace) -> Result:
    """Run one worker and read its line."""
    threads = str(asked.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(HERE.parent)}
    common = ["--threads", threads, "--rows", str(asked.rows)]
    done = subprocess.run(
        [sys.executable, str(HERE / "sweep_worker.py"), *arguments, *common],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def sweep_ordinarily(folder: Path, options: Result, asked: argparse.Namespace) -> Result:
    """Optuna asks, a fresh process trains."""
    axes = choose_axes(asked)
    study = optuna.create_study()
    trials = []
    for point in itertools.product(*axes.values()):
        study.enqueue_trial(dict(zip(axes, point, strict=True)))
        trial = study.ask()
        params = {name: trial.suggest_categorical(name, list(axis)) for name, axis in axes.items()}
        command = ["trl", "--base", str(folder / "base"), "--adapter", str(folder / "adapter")]
        command += ["--learning-rate", str(params["learning_rate"])]
        command += ["--multiplier", str(params["batch_size_multiplier"])]
        command += ["--epochs", str(params["epochs"]), "--options", json.dumps(options)]
        loss = start(command, asked)["loss"]
        study.tell(trial, loss)
        trials.append({"state": "complete", "loss": loss, **params})
    return {"winner": study.best_trial.number, "trials": trials}


def sweep_ours(folder: Path, pruner: str, asked: argparse.Namespace) -> Result:
    """One process for everything."""
    axes = choose_axes(asked)
    options = {
        **{name: ",".join(map(str, axis)) for name, axis in axes.items()},
        "model": str(folder / "base"),
        "warmup_ratio": "0",
        "sampler": "grid",
        "n_trials": str(math.prod(len(axis) for axis in axes.values())),
        "pruner": pruner,
    }
    found = start(["ours", "--base", str(folder / "base"), "--options", json.dumps(options)], asked)
    pinned = {name: axis[0] for name, axis in axes.items()}
    return {**found, "trials": [{**pinned, **trial} for trial in found["trials"]]}


def choose_axes(asked: argparse.Namespace) -> Axes:
    """What is searched."""
    return QUICK if asked.quick else AXES


def measure(method: str, folder: Path, asked: argparse.Namespace) -> Result:
    """One sweep with the seconds it took, by the wall and by processors."""
    low = has_bfloat16("cpu")
    began, busy = time.perf_counter(), _children_s()
    match method:
        case "shipped":
            found = sweep_ordinarily(folder, {"bf16": low}, asked)
        case "tuned":
            tuned = {"padding_free": True, "gradient_checkpointing": False, "max_length": None}
            found = sweep_ordinarily(folder, {**tuned, "bf16": False}, asked)
        case _:
            pruner = "halving" if method == "pruned" else "none"
            found = sweep_ours(folder, pruner, asked)
    wall, processor = time.perf_counter() - began, _children_s() - busy
    best = found["trials"][found["winner"]]
    print(
        f"{method:8} {wall:8.1f} s {processor:8.1f} CPU s   best {best['learning_rate']:g} x "
        f"{best['batch_size_multiplier']}, {best['epochs']} epochs: {best['loss']:.5f}",
        flush=True,
    )
    return {"method": method, "wall_s": wall, "cpu_s": processor, **found}


def summarise(results: dict[str, Result], clock: str) -> dict[str, float]:
    """Ratios of time, and how far our losses are from TRL's in the same arithmetic."""
    seconds = {method: result[clock] for method, result in results.items()}
    theirs = {_key(trial): trial["loss"] for trial in results["tuned"]["trials"]}
    ours = {_key(trial): trial["loss"] for trial in results["whole"]["trials"]}
    return {
        "vs_tuned": seconds["tuned"] / seconds["whole"],
        "vs_tuned_pruned": seconds["tuned"] / seconds["pruned"],
        "vs_ordinary": seconds["shipped"] / seconds["whole"],
        "vs_ordinary_pruned": seconds["shipped"] / seconds["pruned"],
        "worst_loss_difference": max(abs(ours[key] / theirs[key] - 1) for key in theirs),
    }


def describe(asked: argparse.Namespace) -> Result:
    """What the figures were measured with."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    names = ("torch", "transformers", "peft", "trl", "optuna", "mlflow")
    return {
        "commit": commit.stdout.strip(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
        "hardware": {
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "load_average": os.getloadavg(),
        },
        "settings": {**vars(asked), "shape": SHAPE},
    }


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the ratios")
    parser.add_argument("--rows", type=int, default=128, help="training conversations")
    parser.add_argument("--quick", action="store_true", help="4 trials on 32 rows; not written")
    asked = parser.parse_args()
    if asked.quick:
        asked.rows = 32
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    about = describe(asked)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as name:
        make_base(Path(name))
        for method in ("whole", "pruned", "tuned", "shipped"):
            results[method] = measure(method, Path(name), asked)
    summary = summarise(results, f"{asked.clock}_s")
    same = len({_key(r["trials"][r["winner"]]) for r in (results["whole"], results["pruned"])}) == 1
    if not asked.quick:
        text = json.dumps({**about, "summary": summary, "results": [*results.values()]}, indent=1)
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "sweep.json").write_text(text + "\n", encoding="utf-8")
    print(f"pruning kept the winner: {'yes' if same else 'no'}")
    for line in (("vs_tuned", "vs_tuned_pruned"), ("vs_ordinary", "vs_ordinary_pruned")):
        told = " ".join(f"{name}={summary[name]:.2f}" for name in line)
        print(told, end="\n" if line[0] == "vs_tuned" else " ")
    print(f"worst_loss_difference={summary['worst_loss_difference']:.2e}")


def _key(trial: Result) -> tuple[float, int, int]:
    return (trial["learning_rate"], trial["batch_size_multiplier"], trial["epochs"])


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
