"""Rows per second and peak memory of `prepare`, beside `datasets` with TRL's preparation.

    python benchmarks/prepare.py                  1,000,000 conversations, about 1 GB
    python benchmarks/prepare.py --rows 50000     the same, smaller

Both sides prepare the first 50,000 of the conversations (`--shared-rows`), in turn, with the same
tokenizer on the same cores, each in a process of its own; the ratio is of those. Then ours prepares
the whole, and once more, which finds it prepared. Ours reads, checks, cleans, finds duplicates,
splits, tokenises and writes the report; the other reads, and tokenises with the loss mask of
`SFTTrainer(assistant_only_loss=True)`, in a process for each core. Imports and the loading of the
tokenizer are outside the clock for both, the start of further processes inside.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from machine import describe
from prepare_workload import SEED, write_conversations

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "prepare.json"
_PACKAGES = ("datasets", "numpy", "pyarrow", "tokenizers", "transformers", "trl")
_SAMPLE_S = 0.25
Run = dict[str, float]


def main() -> None:
    """Measure both, write the results, print the line."""
    options = _parse()
    if options.side:
        _run_side(options)
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-prepare-", dir=options.folder))
    try:
        whole, shared = options.data or folder / "conversations.jsonl", folder / "shared.jsonl"
        if not options.data:
            write_conversations(whole, options.rows, _words(options.tokenizer))
        _copy_rows(whole, shared, options.shared_rows)
        runs: dict[str, list[Run]] = {"ours": [], "datasets": []}
        for repeat in range(options.repeats):  # in turn, so that a busy minute meets both
            for side, found in runs.items():
                cache = folder / f"{side}-{repeat}"
                found.append(_measure(side, shared, cache, options))
                shutil.rmtree(cache)
                print(f"{side} {repeat + 1}/{options.repeats}: {found[-1]}", flush=True)
        for name in ("whole", "again"):  # of the same cache: the second is found prepared
            runs[name] = [_measure("ours", whole, folder / "whole", options)]
            print(f"{name}: {runs[name][0]}", flush=True)
        _report(runs, whole, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shared-rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokenizer", type=Path, default=_default_tokenizer())
    parser.add_argument("--folder", type=Path, help="where the data lie meanwhile")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=["ours", "datasets"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="conversations that were written before")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _copy_rows(source: Path, target: Path, rows: int) -> None:
    with source.open("rb") as stream, target.open("wb") as out:
        out.writelines(islice(stream, rows))


def _default_tokenizer() -> Path:
    """The real tokenizer of Phi-3-mini where it lies beside the checkout, else the demo's."""
    real = ROOT.parent / "shared" / "data" / "phi3-mini-tokenizer"
    return real if real.is_dir() else ROOT / "mlflow_phi3" / "modeling" / "demo" / "checkpoint"


def _load(tokenizer: Path) -> Any:
    # Here, because the processes that prepare import this file anew and need no transformers.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)


def _words(tokenizer: Path) -> list[str]:
    """Whole words of the tokenizer's vocabulary, the most frequent (lowest ids) first."""
    vocabulary = _load(tokenizer).get_vocab()
    ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
    words = (token.removeprefix("▁") for token in ordered if token.startswith("▁"))
    return [word for word in words if word.isalpha() and word.isascii() and len(word) > 1]


def _measure(side: str, data: Path, cache: Path, options: argparse.Namespace) -> Run:
    """Run a side in its own process; seconds of its work, and its processes' peak memory."""
    command = [sys.executable, __file__, "--side", side, "--data", str(data), "--cache", str(cache)]
    command += ["--tokenizer", str(options.tokenizer)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment(cache))
    peak = _Peak(child.pid)
    output, _ = child.communicate()
    peak.stop()
    if child.returncode:
        raise SystemExit(f"{side} ended with {child.returncode}")
    found = json.loads(output.splitlines()[-1])
    rows_per_s = found["rows"] / found["seconds"]
    return {**found, "rows_per_s": round(rows_per_s, 1), "peak_mb": round(peak.bytes / 2**20, 1)}


def _environment(cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


class _Peak:
    """Samples the proportional memory (PSS) of a process and all beneath it."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,))
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self, pid: int) -> None:
        root = psutil.Process(pid)
        while not self._stop.wait(_SAMPLE_S):
            total = 0
            try:
                for process in [root, *root.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.Error:  # one ended while we looked
                continue
            self.bytes = max(self.bytes, total)


def _run_side(options: argparse.Namespace) -> None:
    tokenizer = _load(options.tokenizer)
    work = (_ours if options.side == "ours" else _datasets)(options, tokenizer)
    start = time.perf_counter()
    facts = work()
    print(json.dumps({"seconds": round(time.perf_counter() - start, 3), **facts}))


def _ours(options: argparse.Namespace, tokenizer: Any) -> Callable[[], dict[str, int]]:
    config = PrepareConfig(train_data=str(options.data))

    def work() -> dict[str, int]:
        data = prepare(config, tokenizer, folder=options.cache, context_length=4096)
        counts = data.manifest.counts
        return {"rows": counts.rows_in, "kept": counts.kept, "duplicates": counts.duplicates}

    return work


def _datasets(options: argparse.Namespace, tokenizer: Any) -> Callable[[], dict[str, int]]:
    # Ours must not pay for these imports, and they are outside the clock.
    from datasets import load_dataset
    from trl.chat_template_utils import get_training_chat_template

    template = get_training_chat_template(tokenizer)
    cores = len(os.sched_getaffinity(0))

    def tokenize(row: dict[str, Any]) -> dict[str, Any]:
        # As SFTTrainer does it with assistant_only_loss=True.
        found = tokenizer.apply_chat_template(
            row["messages"],
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return {"input_ids": found["input_ids"], "assistant_masks": found["assistant_masks"]}

    def work() -> dict[str, int]:
        loaded = load_dataset("json", data_files=str(options.data), split="train")
        mapped = loaded.map(tokenize, remove_columns=loaded.column_names, num_proc=cores)
        return {"rows": len(mapped)}

    return work


def _report(runs: dict[str, list[Run]], whole: Path, options: argparse.Namespace) -> None:
    middle = {
        side: statistics.median(run["rows_per_s"] for run in runs[side])
        for side in ("ours", "datasets")
    }
    rows_per_s, again_s = runs["whole"][0]["rows_per_s"], runs["again"][0]["seconds"]
    peak = max(run["peak_mb"] for side in ("ours", "whole") for run in runs[side])
    ratio = middle["ours"] / middle["datasets"]
    result = {
        **describe(*_PACKAGES),
        "rows": runs["whole"][0]["rows"],
        "size_bytes": whole.stat().st_size,
        "shared_rows": options.shared_rows,
        "seed": SEED,
        "tokenizer": options.tokenizer.name,
        "baseline": "load_dataset + map(num_proc=cores) with TRL's training template and mask",
        "runs": runs,
        "median_rows_per_s_of_shared": middle,
        "rows_per_s": rows_per_s,
        "vs_datasets": round(ratio, 2),
        "peak_mb": peak,
        "again_s": again_s,
        "bound_by": BOUND,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"prepared again in {again_s:.2f} s")
    print(f"rows_per_s={rows_per_s:.0f} vs_datasets={ratio:.2f} peak_mb={peak:.0f}")


BOUND = (
    "the processors: under cProfile a third of a worker's time is tokenisation, a fifth reading "
    "and checking, a fifth finishing (telling languages most of it), the rest hashes, sketches "
    "and Arrow"
)


if __name__ == "__main__":
    main()
