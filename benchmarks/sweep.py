"""Wall-clock of a 12-trial sweep: ours beside the ordinary way, at the same losses.

The ordinary way is Optuna and a process a trial, each with TRL's SFTTrainer and PEFT: `shipped`, as
they come (padded, activation checkpointing, bfloat16 autocast), and `tuned`, the fastest of their
settings (padding-free, no checkpointing). Ours is the sweep of this package with all that it logs:
`whole`, every trial to its end, and `pruned`, successive halving. All train the same trials from
the same initial adapter on the same batches. Where the machine computes in bfloat16, so do all
four, and those ending in `32` do the same in float32, in which losses can be compared to the last
digits. Ours is short and runs twice, before and after the others, so that a machine whose speed
drifts favours nobody; its seconds are the mean.

MLflow's tables are made beforehand, as they are from a store's first run on.

The last line reads `vs_ordinary=<ratio> vs_ordinary_pruned=<ratio> worst_loss_difference=<share>`,
where ordinary is `shipped` and the difference is of `whole` from `tuned`; those before it give the
ratios to `tuned`, and the same in float32.
"""

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna
from machine import describe
from sweep_workload import DATA, SHAPE, make_base

from mlflow_phi3.modeling.hardware import has_bfloat16

HERE = Path(__file__).parent
TRL = [str(HERE / "sweep_worker.py")]
# As the package's own commands start.
OURS = ["-c", "from mlflow_phi3.imports import import_large as i; i('sweep_worker').main()"]
Axes = dict[str, tuple[float, ...]]
AXES: Axes = {
    "learning_rate": (5e-4, 1e-3),
    "batch_size_multiplier": (1, 2),
    "epochs": (1, 2, 3),
}
QUICK: Axes = {"learning_rate": (5e-4, 1e-3), "batch_size_multiplier": (2,), "epochs": (1, 2)}
Result = dict[str, Any]
TUNED = {"padding_free": True, "gradient_checkpointing": False, "max_length": None}
SECONDS = ("wall_s", "cpu_s", "training_s")
WIDE = "32"  # ends the names of what is computed in float32 beside bfloat16


def start(arguments: list[str], folder: Path, asked: argparse.Namespace) -> Result:
    """Run one worker in ``folder`` and read its line."""
    threads = str(asked.threads)
    path = os.pathsep.join((str(HERE), str(HERE.parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": path}
    common = ["--threads", threads, "--data", asked.data, "--rows", str(asked.rows)]
    program = OURS if arguments[0] == "ours" else TRL
    done = subprocess.run(
        [sys.executable, *program, *arguments, *common],
        capture_output=True,
        text=True,
        cwd=folder,
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
        found = start(command, folder, asked)
        study.tell(trial, found["loss"])
        trials.append({"state": "complete", **found, **params})
    training_s = sum(trial["training_s"] for trial in trials)
    return {"winner": study.best_trial.number, "training_s": training_s, "trials": trials}


def sweep_ours(folder: Path, pruner: str, precision: str, asked: argparse.Namespace) -> Result:
    """One process for everything."""
    axes = choose_axes(asked)
    options = {
        **{name: ",".join(map(str, axis)) for name, axis in axes.items()},
        "model": str(folder / "base"),
        "warmup_ratio": "0",
        "sampler": "grid",
        "n_trials": str(math.prod(len(axis) for axis in axes.values())),
        "pruner": pruner,
        "evaluations_per_epoch": str(asked.evaluations if pruner != "none" else 1),
    }
    command = ["ours", "--base", str(folder / "base"), "--precision", precision]
    command += ["--store", str(folder / "store"), "--options", json.dumps(options)]
    found = start(command, folder, asked)
    pinned = {name: axis[0] for name, axis in axes.items()}
    return {**found, "trials": [{**pinned, **trial} for trial in found["trials"]]}


def choose_axes(asked: argparse.Namespace) -> Axes:
    """What is searched."""
    return QUICK if asked.quick else AXES


def list_methods() -> list[str]:
    """What is measured on this machine, in order."""
    methods = ["whole", "pruned", "tuned", "shipped", "pruned", "whole"]
    if has_bfloat16("cpu"):
        methods += ["whole32", "pruned32", "tuned32", "pruned32", "whole32"]
    return methods


def measure(method: str, folder: Path, asked: argparse.Namespace) -> Result:
    """One sweep with the seconds it took, by the wall and by processors."""
    low = has_bfloat16("cpu") and not method.endswith(WIDE)
    began, busy = time.perf_counter(), _children_s()
    match method.removesuffix(WIDE):
        case "shipped":
            found = sweep_ordinarily(folder, {"bf16": low}, asked)
        case "tuned":
            found = sweep_ordinarily(folder, {**TUNED, "bf16": low}, asked)
        case kind:
            pruner = "halving" if kind == "pruned" else "none"
            found = sweep_ours(folder, pruner, "bfloat16" if low else "float32", asked)
    wall, processor = time.perf_counter() - began, _children_s() - busy
    best = found["trials"][found["winner"]]
    print(
        f"{method:8} {wall:8.1f} s {processor:8.1f} CPU s   best {best['learning_rate']:g} x "
        f"{best['batch_size_multiplier']}, {best['epochs']} epochs: {best['loss']:.5f}",
        flush=True,
    )
    return {"method": method, "wall_s": wall, "cpu_s": processor, **found}


def average(first: Result | None, again: Result) -> Result:
    """One result of a method that ran once or twice: the mean of its seconds."""
    if first is None:
        return again
    means = {name: (first[name] + again[name]) / 2 for name in SECONDS}
    return {**again, **means, "runs_s": [first["wall_s"], again["wall_s"]]}


def summarise(results: dict[str, Result], clock: str) -> dict[str, float]:
    """Ratios of time, and how far our losses are from TRL's in the same arithmetic."""
    seconds = {method: result[clock] for method, result in results.items()}
    summary = {
        "vs_ordinary": seconds["shipped"] / seconds["whole"],
        "vs_ordinary_pruned": seconds["shipped"] / seconds["pruned"],
    }
    for wide in ("", WIDE):
        if f"whole{wide}" not in results:
            continue
        theirs = {_key(trial): trial["loss"] for trial in results[f"tuned{wide}"]["trials"]}
        ours = {_key(trial): trial["loss"] for trial in results[f"whole{wide}"]["trials"]}
        tuned = seconds[f"tuned{wide}"]
        summary[f"vs_tuned{wide}"] = tuned / seconds[f"whole{wide}"]
        summary[f"vs_tuned{wide}_pruned"] = tuned / seconds[f"pruned{wide}"]
        worst = max(abs(ours[key] / theirs[key] - 1) for key in theirs)
        summary[f"worst_loss_difference{wide}"] = worst
    return summary


def share_savings(theirs: Result, ours: Result) -> dict[str, float]:
    """What each of three things saves, as shares of all seconds that are saved.

    One process starts and loads once what theirs does for every trial (with it goes their final
    evaluation, of which ours is part of the training); epochs that trials have in common are
    trained once, which is counted at their speed; what is left is the speed. Our training is
    counted from its first step to the end of the report, theirs as what ``trainer.train()`` takes.
    """
    longest: dict[tuple[float, int], int] = {}
    for trial in theirs["trials"]:
        pair = trial["learning_rate"], trial["batch_size_multiplier"]
        longest[pair] = max(longest.get(pair, 0), trial["epochs"])
    needed = sum(longest.values()) / sum(trial["epochs"] for trial in theirs["trials"])
    trained = theirs["training_s"]
    saved = theirs["wall_s"] - ours["wall_s"]
    beside = (theirs["wall_s"] - trained) - (ours["wall_s"] - ours["training_s"])
    return {
        "one_process": beside / saved,
        "shared_epochs": trained * (1 - needed) / saved,
        "faster_steps": (trained * needed - ours["training_s"]) / saved,
    }


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the ratios")
    parser.add_argument("--data", choices=DATA, default="tailed")
    parser.add_argument("--rows", type=int, default=128, help="training conversations")
    parser.add_argument(
        "--evaluations", type=int, default=1, help="of `pruned`, within an epoch; each is judged"
    )
    parser.add_argument("--quick", action="store_true", help="4 trials on 32 rows; not written")
    asked = parser.parse_args()
    if asked.quick:
        asked.rows = 32
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    about = describe("torch", "transformers", "peft", "trl", "optuna", "mlflow")
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder)
        start(["store", "--store", str(folder / "store")], folder, asked)
        for method in list_methods():
            found = measure(method, folder, asked)
            results[method] = average(results.get(method), found)
    summary = summarise(results, f"{asked.clock}_s")
    shares = share_savings(results["shipped"], results["whole"])
    if not asked.quick:
        settings = {**vars(asked), "shape": SHAPE}
        about |= {"settings": settings, "summary": summary, "shares": shares}
        text = json.dumps({**about, "results": [*results.values()]}, indent=1)
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "sweep.json").write_text(text + "\n", encoding="utf-8")
    winners = {_key(r["trials"][r["winner"]]) for r in results.values()}
    told = ", ".join(f"{name.replace('_', ' ')} {share:.0%}" for name, share in shares.items())
    print(f"of what is saved against shipped: {told}")
    print(f"all have the same winner: {'yes' if len(winners) == 1 else 'no'}")
    tell(summary, "vs_tuned32", "vs_tuned32_pruned", "worst_loss_difference32")
    tell(summary, "vs_tuned", "vs_tuned_pruned")
    tell(summary, "vs_ordinary", "vs_ordinary_pruned", "worst_loss_difference")


def tell(summary: dict[str, float], *names: str) -> None:
    """Print a line of figures; those that this machine does not have are left out."""
    known = [name for name in names if name in summary]
    told = [f"{name}={summary[name]:.{'2e' if 'loss' in name else '2f'}}" for name in known]
    if told:
        print(" ".join(told))


def _key(trial: Result) -> tuple[float, int, int]:
    return (trial["learning_rate"], trial["batch_size_multiplier"], trial["epochs"])


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
