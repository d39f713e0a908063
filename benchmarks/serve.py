"""Requests per second and time to first token of our server, `transformers serve` and MLflow's.

One model, one machine, one run; the servers take turns, so that what else the machine does falls on
all of them alike. The last line is ``vs_transformers=<at 1>,<at 8>,<at 32> vs_mlflow_8=<ratio>``,
the ratios of the medians in requests per second.

``python benchmarks/serve.py [--repeats 3] [--tokens 24] [--requests 64] [--quick]``
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import mlflow
import torch
import transformers
from mlflow.models import ModelSignature

from mlflow_phi3.modeling.demo import checkpoint_path
from mlflow_phi3.serving.package import package_chat

LOADS = (1, 8, 32)
QUESTIONS = (
    "How do I turn it on?",
    "My controller does not pair. What should I do?",
    "Which storage can I add?",
    "The picture is black.",
    "How do I reset the console to its factory state?",
)
RESULTS = Path(__file__).parent / "results" / "serve.json"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure.

    Args:
        name: As the results call it.
        command: That starts it, with ``{port}``.
        path: That it answers chats on.
        health: That is 200 when it is ready.
        model: The name a request has to give.
        streams: Whether it can stream.
        loads: Numbers of clients it is measured at.
    """

    name: str
    command: tuple[str, ...]
    path: str
    health: str
    model: str
    streams: bool = True
    loads: tuple[int, ...] = LOADS


@dataclass(frozen=True, slots=True)
class Result:
    """One server under one load, once.

    Args:
        server: Its name.
        clients: How many asked at once, each one after the other.
        requests_per_s: Whole answers.
        tokens_per_s: Generated tokens, as the server counts them.
        first_token_s: Median time to the first text; to the whole answer without streaming.
    """

    server: str
    clients: int
    requests_per_s: float
    tokens_per_s: float
    first_token_s: float


def main() -> None:
    """Measure, write the results, print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--requests", type=int, default=64, help="of each server at each load")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="see that all works; writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.tokens, options.requests = 1, 8, 32
    # The servers are sessions of their own: a signal has to pass the `finally` that ends them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    checkpoint = (options.checkpoint or checkpoint_path()).resolve()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        peers = list_peers(checkpoint, log_model(checkpoint, Path(scratch)))
        for repeat in range(options.repeats):
            for peer in peers:
                with started(peer) as url:
                    for clients in peer.loads:
                        each = max(1, options.requests // clients)
                        found = asyncio.run(measure(peer, url, clients, each, options.tokens))
                        results.append(found)
                        print(repeat, *asdict(found).values(), flush=True)
    if not options.quick:
        save(results, vars(options))
    print(summary(results))


def list_peers(checkpoint: Path, logged: Path) -> list[Peer]:
    """The servers, each as its documentation starts it for many clients."""
    python, name = sys.executable, str(checkpoint)
    tool = str(Path(python).with_name("transformers"))
    theirs = (tool, "serve", name, "--port", "{port}", "--device", "cpu")
    local_mlflow = (python, "-m", "mlflow", "models", "serve", "--env-manager", "local")
    chat = "/v1/chat/completions"
    return [
        Peer(
            "ours",
            (python, "-m", "mlflow_phi3.serving", name, "--port", "{port}"),
            chat,
            "/health",
            "",
        ),
        Peer("transformers", theirs, chat, "/health", name),
        Peer("transformers-batching", (*theirs, "--continuous-batching"), chat, "/health", name),
        Peer(
            "mlflow",
            (*local_mlflow, "-m", str(logged), "--port", "{port}"),
            "/invocations",
            "/ping",
            "",
            streams=False,
            loads=(1, 8),
        ),
    ]


def log_model(checkpoint: Path, scratch: Path) -> Path:
    """Save the same checkpoint as the MLflow model that `mlflow models serve` takes."""
    servable = package_chat(checkpoint, scratch / "code")
    mlflow.pyfunc.save_model(
        str(scratch / "model"),
        python_model=servable.python_model,
        artifacts=servable.artifacts,
        code_paths=servable.code_paths,
        pip_requirements=servable.pip_requirements,
        model_config=servable.model_config,
        signature=ModelSignature.from_dict(servable.signature),
    )
    return scratch / "model"


@contextlib.contextmanager
def started(peer: Peer) -> Iterator[str]:
    """A running server's URL; it is ended, with its children, afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [part.format(port=port) for part in peer.command],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PATH": search_path()},
        )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(process, url + peer.health, log)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def search_path() -> str:
    """Where commands are found: `mlflow models serve` calls uvicorn by its bare name."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Any) -> None:
    """Return when ``url`` answers 200; raise with the server's log when it never does."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.2)
    log.seek(0)
    raise SystemExit(f"{url} never answered:\n{log.read().decode()[-3000:]}")


async def measure(peer: Peer, url: str, clients: int, each: int, tokens: int) -> Result:
    """Let ``clients`` ask ``each`` questions one after the other."""
    async with httpx.AsyncClient(
        base_url=url, timeout=600, limits=httpx.Limits(max_connections=clients)
    ) as http:
        await asyncio.gather(*(ask(peer, http, n, tokens) for n in range(min(clients, 4))))

        async def client(number: int) -> list[tuple[float, int]]:
            return [await ask(peer, http, number + n, tokens) for n in range(each)]

        began = time.perf_counter()
        rows = await asyncio.gather(*(client(number) for number in range(clients)))
        took = time.perf_counter() - began
    answers = [row for client_rows in rows for row in client_rows]
    return Result(
        server=peer.name,
        clients=clients,
        requests_per_s=len(answers) / took,
        tokens_per_s=sum(count for _, count in answers) / took,
        first_token_s=median(first for first, _ in answers),
    )


async def ask(peer: Peer, http: httpx.AsyncClient, number: int, tokens: int) -> tuple[float, int]:
    """Seconds to the first text, and tokens generated; fails on any other answer."""
    question = QUESTIONS[number % len(QUESTIONS)]
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
    }
    if peer.model:
        body["model"] = peer.model
    began = time.perf_counter()
    if not peer.streams:
        response = await http.post(peer.path, json=body)
        response.raise_for_status()
        return time.perf_counter() - began, response.json()["usage"]["completion_tokens"]
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    first = counted = None
    async with http.stream("POST", peer.path, json=body) as response:
        response.raise_for_status()
        async for chunk in read_events(response):
            if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.perf_counter() - began
            if chunk.get("usage"):
                counted = chunk["usage"]["completion_tokens"]
    if first is None:
        raise SystemExit(f"{peer.name} answered {question!r} with nothing")
    return first, counted or 0


async def read_events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def save(results: list[Result], options: dict[str, Any]) -> None:
    """Write every repeat with what it was measured on."""
    RESULTS.parent.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=RESULTS.parent
    ).stdout.strip()
    RESULTS.write_text(
        json.dumps(
            {
                "commit": commit,
                "machine": {"cpu": platform.processor(), "cores": os.cpu_count()},
                "load_average": os.getloadavg(),
                "versions": {
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "mlflow": mlflow.__version__,
                },
                "max_tokens": options["tokens"],
                "requests": options["requests"],
                "repeats": options["repeats"],
                "results": [asdict(result) for result in results],
            },
            indent=2,
        )
        + "\n"
    )


def summary(results: list[Result]) -> str:
    """The last line: ours over the better of transformers' two ways, and over MLflow's server."""

    def rate(server: str, clients: int) -> float:
        return median(
            row.requests_per_s for row in results if (row.server, row.clients) == (server, clients)
        )

    theirs = ("transformers", "transformers-batching")
    ratios = [rate("ours", load) / max(rate(name, load) for name in theirs) for load in LOADS]
    told = ",".join(f"{ratio:.2f}" for ratio in ratios)
    return f"vs_transformers={told} vs_mlflow_8={rate('ours', 8) / rate('mlflow', 8):.2f}"


if __name__ == "__main__":
    main()
