import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import plan_sources, prepare
from mlflow_phi3.data.pool import work_pieces
from mlflow_phi3.data.template import TemplateSource
from mlflow_phi3.data.work import Settings
from mlflow_phi3.errors import DataError

CHILD = """
import json, signal, sys, time, types
from pathlib import Path
from tokenizers import Tokenizer
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.pipeline import prepare

if __name__ == "__main__":
    # What was started in the background of a shell ignores the terminal's interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tokenizer_folder, out, *sources = sys.argv[1:]
    settings = json.loads((Path(tokenizer_folder) / "tokenizer_config.json").read_text())
    tokenizer = types.SimpleNamespace(
        backend_tokenizer=Tokenizer.from_file(tokenizer_folder + "/tokenizer.json"),
        chat_template=settings["chat_template"],
        special_tokens_map={"eos_token": "<|endoftext|>", "bos_token": "<s>"},
    )
    config = PrepareConfig(train_data=",".join(sources), on_error="reject", prepare_workers=2)

    def tell(what, share):
        print(what, flush=True)
        if what == "checking and tokenising":
            time.sleep(120)  # until it is ended

    prepare(config, tokenizer, folder=Path(out), on_progress=tell)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory, chat):
    """Files that make a piece each, with good, broken, equal and almost equal rows."""
    folder = tmp_path_factory.mktemp("sources")
    draw = random.Random(7)
    words = [f"word{number}" for number in range(2000)]
    paths = []
    for file in range(6):
        rows = []
        for number in range(500):
            question, answer = (" ".join(draw.choices(words, k=25)) for _ in "qa")
            rows.append(chat(question, answer))
            if number % 50 == 0:
                rows += ["{broken", chat(question, answer), chat(question, answer + " so")]
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        paths.append(folder / f"part{file}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def alone(sources, plain_tokenizer, tmp_path_factory):
    """What one process prepares."""
    return prepare(_config(sources, 1), plain_tokenizer, folder=tmp_path_factory.mktemp("alone"))


def _config(sources, workers):
    return PrepareConfig(
        train_data=",".join(map(str, sources)), on_error="reject", prepare_workers=workers
    )


def _children(of=None):
    found = []
    for child in psutil.Process(of).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just died
            if "spawn_main" in str(child.cmdline()):
                found.append(child)
    return found


def _ignores_interrupts(process):
    (mask,) = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def test_processes_prepare_what_one_process_prepares(sources, alone, plain_tokenizer, tmp_path):
    together = prepare(_config(sources, 2), plain_tokenizer, folder=tmp_path)
    counts = together.manifest.counts
    assert (counts.rows_in, counts.rejected, counts.duplicates) == (6 * 530, 60, 120)
    own = {**together.manifest.config, "prepare_workers": 1}
    assert dataclasses.replace(together.manifest, config=own) == alone.manifest
    for name in ("findings.jsonl", "rejected.jsonl", "duplicates.jsonl", "report.json"):
        assert (together.folder / name).read_bytes() == (alone.folder / name).read_bytes()
    for split in ("train", "validation", "test"):
        pairs = zip(together.examples(split), alone.examples(split), strict=True)
        assert all(
            one.place == two.place
            and one.input_ids.tobytes() == two.input_ids.tobytes()
            and one.supervised.tobytes() == two.supervised.tobytes()
            for one, two in pairs
        )
    assert not _children()


def test_an_exception_in_a_process_is_the_callers(sources, plain_tokenizer, tmp_path):
    config = _config(sources, 2)
    pieces = list(plan_sources(config).pieces)
    pieces[2] = dataclasses.replace(pieces[2], file=tmp_path / "gone.jsonl")
    settings = Settings(tmp_path, TemplateSource.from_tokenizer(plain_tokenizer), config, 0)
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        list(work_pieces(settings, pieces, size_bytes=0))
    assert not _children()


def test_a_process_that_dies_is_told_and_leaves_nothing(sources, plain_tokenizer, tmp_path):
    def kill_one(what, share):
        if what == "checking and tokenising":
            for child in _children()[:1]:
                child.kill()

    folder = tmp_path / "cache"
    with pytest.raises(DataError, match="PHI3-D050"):
        prepare(_config(sources, 2), plain_tokenizer, folder=folder, on_progress=kill_one)
    assert not _children()
    assert not list(folder.iterdir())


@pytest.fixture
def start(sources, samsum, tmp_path):
    """Start a preparation in a process group of its own, and wait until processes are at work."""
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    begun = []

    def start(folder):
        arguments = [str(samsum.parent / "phi3-mini-tokenizer"), str(folder), *map(str, sources)]
        child = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(child)
        while "checking" not in (line := child.stdout.readline()):
            assert line, child.stderr.read()
        workers = _children(child.pid)
        assert len(workers) == 2
        deadline = time.monotonic() + 60
        while not all(map(_ignores_interrupts, workers)):  # one may still be on its way to work
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return child, psutil.Process(child.pid).children(recursive=True)

    yield start
    for child in begun:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def test_an_interrupt_of_the_terminal_ends_all_and_leaves_nothing(start, tmp_path):
    child, workers = start(tmp_path / "cache")
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, said = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert "spawn_main" not in said  # the processes have nothing to say to it
    assert child.returncode in {1, 130, -signal.SIGINT}
    assert not psutil.wait_procs(workers, timeout=20)[1]
    assert not list((tmp_path / "cache").iterdir())


def test_a_killed_preparation_is_restarted_clean(start, sources, alone, plain_tokenizer, tmp_path):
    cache = tmp_path / "cache"
    child, workers = start(cache)
    child.kill()
    child.wait(timeout=20)
    assert not psutil.wait_procs(workers, timeout=20)[1]
    (left,) = cache.iterdir()
    assert left.name.endswith(".partial")
    (left / "shards" / "000000.arrow").write_bytes(b"half a file")
    again = prepare(_config(sources, 1), plain_tokenizer, folder=cache)
    assert {path.name for path in cache.iterdir()} == {again.folder.name, "latest.json"}
    assert again.manifest == alone.manifest
    for split in ("train", "validation", "test"):
        pairs = zip(again.examples(split), alone.examples(split), strict=True)
        assert all(one.input_ids.tobytes() == two.input_ids.tobytes() for one, two in pairs)
