"""Requests per second and time to first token of our server, `transformers serve` and MLflow's.

One model, one machine, one run. Each server is started once and warmed; then they take turns at
each load, so that what else the machine does falls on all of them alike. The last line is
``vs_transformers=<at 1>,<at 8>,<at 32> vs_mlflow_8=<ratio>``: at each load the median over the
repeats of ours over theirs, in requests per second. `transformers serve` is measured in both its
ways, with and without continuous batching, and the better one counts; it computes in the number
format that ours chooses, and its cache has the size of ours.

``python benchmarks/serve.py [--repeats 5] [--tokens 24] [--quick]``
"""

import argparse
import asyncio
import contextlib
import json
import os
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

import aiohttp
import httpx
from machine import describe

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.modeling.demo import checkpoint_path
from mlflow_phi3.serving.local import load_checkpoint
from mlflow_phi3.serving.package import package_chat
from mlflow_phi3.tracking.registry import save_model

LOADS = {1: 16, 8: 48, 32: 96}
"""Clients, and how many requests they make together in a repeat."""
_WARM_UP = 4
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
    loads: tuple[int, ...] = tuple(LOADS)


@dataclass(frozen=True, slots=True)
class Result:
    """One server under one load, once.

    Args:
        repeat: From 0.
        server: Its name.
        clients: How many asked at once, each one after the other.
        requests_per_s: Whole answers.
        tokens_per_s: Generated tokens, as the server counts them.
        first_token_s: Median time to the first text; to the whole answer without streaming.
    """

    repeat: int
    server: str
    clients: int
    requests_per_s: float
    tokens_per_s: float
    first_token_s: float


def main() -> None:
    """Measure, write the results, print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="see that all works; writes nothing")
    options = parser.parse_args()
    loads = dict(LOADS)
    if options.quick:
        options.repeats, options.tokens, loads = 1, 8, {1: 8, 8: 16, 32: 32}
    # The servers are sessions of their own: a signal has to pass the `finally` that ends them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    checkpoint = (options.checkpoint or checkpoint_path()).resolve()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        folder = Path(scratch)
        save_model(package_chat(checkpoint, folder / "code"), folder / "model")
        peers = list_peers(checkpoint, folder / "model")
        urls = {}
        for peer in peers:  # one after the other: loading is the one thing that needs a core alone
            urls[peer.name] = servers.enter_context(started(peer))
            asyncio.run(measure(peer, urls[peer.name], (0, 2, _WARM_UP), options.tokens))
            tell(f"{peer.name} is warm")
        results = take_turns(peers, urls, loads, repeats=options.repeats, tokens=options.tokens)
    if not options.quick:
        save(results, loads, vars(options))
    print(table(results))
    print(summary(results))


def take_turns(
    peers: list["Peer"], urls: dict[str, str], loads: dict[int, int], *, repeats: int, tokens: int
) -> list["Result"]:
    """Measure every server at every load, each turn in the reverse order of the one before."""
    results: list[Result] = []
    for repeat in range(repeats):
        turn = peers if repeat % 2 == 0 else peers[::-1]
        for clients, requests in loads.items():
            for peer in (peer for peer in turn if clients in peer.loads):
                load = (repeat, clients, requests)
                found = asyncio.run(measure(peer, urls[peer.name], load, tokens))
                results.append(found)
                tell(
                    f"{repeat + 1}/{repeats} {clients:2} clients  {peer.name:21}"
                    f" {found.requests_per_s:7.2f} requests/s, first text after"
                    f" {found.first_token_s:.3f} s"
                )
    return results


def tell(line: str) -> None:
    """Print progress at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def list_peers(checkpoint: Path, logged: Path) -> list[Peer]:
    """The servers, each as its documentation starts it for many clients."""
    python, name = sys.executable, str(checkpoint)
    tool = str(Path(python).with_name("transformers"))
    dtype = str(load_checkpoint(checkpoint, device="cpu").model.dtype).removeprefix("torch.")
    theirs = (tool, "serve", name, "--port", "{port}", "--device", "cpu", "--dtype", dtype)
    # By itself it takes nine tenths of the memory for its cache: it gets the size that ours has.
    blocks = ServeConfig().cache_tokens // 32
    cache = ("--cb-block-size", "32", "--cb-num-blocks", str(blocks))
    batching = ("--continuous-batching", *cache, "--cb-max-batch-tokens", "512")
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
        Peer("transformers-batching", (*theirs, *batching), chat, "/health", name),
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


async def measure(peer: Peer, url: str, load: tuple[int, int, int], tokens: int) -> Result:
    """Let clients ask, each one question after the other.

    Args:
        peer: Whom they ask.
        url: Where it listens.
        load: Number of the repeat, clients, requests of all of them.
        tokens: Length of each answer.
    """
    repeat, clients, requests = load
    # aiohttp, whose parser is in C: clients and servers share the machine.
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=clients)) as http:
        numbers = iter(range(requests))

        async def client() -> list[tuple[float, int]]:
            return [await ask(peer, http, number, tokens) for number in numbers]

        began = time.perf_counter()
        rows = await asyncio.gather(*(client() for _ in range(clients)))
        took = time.perf_counter() - began
    answers = [row for client_rows in rows for row in client_rows]
    return Result(
        repeat=repeat,
        server=peer.name,
        clients=clients,
        requests_per_s=len(answers) / took,
        tokens_per_s=sum(count for _, count in answers) / took,
        first_token_s=median(first for first, _ in answers),
    )


async def ask(
    peer: Peer, http: aiohttp.ClientSession, number: int, tokens: int
) -> tuple[float, int]:
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
        async with http.post(peer.path, json=body) as response:
            response.raise_for_status()
            answer = await response.json()
        return time.perf_counter() - began, answer["usage"]["completion_tokens"]
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    first = counted = None
    async with http.post(peer.path, json=body) as response:
        response.raise_for_status()
        async for chunk in read_events(response):
            if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.perf_counter() - began
            if chunk.get("usage"):
                counted = chunk["usage"]["completion_tokens"]
    if first is None:
        raise SystemExit(f"{peer.name} answered {question!r} with nothing")
    return first, counted or 0


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


def save(results: list[Result], loads: dict[int, int], options: dict[str, Any]) -> None:
    """Write every repeat with what it was measured on."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps(
            {
                **describe("torch", "transformers", "mlflow"),
                "max_tokens": options["tokens"],
                "requests": {str(clients): requests for clients, requests in loads.items()},
                "repeats": options["repeats"],
                "summary": summary(results),
                "results": [asdict(result) for result in results],
            },
            indent=2,
        )
        + "\n"
    )


def table(results: list[Result]) -> str:
    """Medians of each server at each load."""
    lines = [f"{'server':22}{'clients':>8}{'requests/s':>12}{'tokens/s':>10}{'first text s':>14}"]
    for server, clients in dict.fromkeys((row.server, row.clients) for row in results):
        rows = [row for row in results if (row.server, row.clients) == (server, clients)]
        lines.append(
            f"{server:22}{clients:8}{median(row.requests_per_s for row in rows):12.2f}"
            f"{median(row.tokens_per_s for row in rows):10.1f}"
            f"{median(row.first_token_s for row in rows):14.3f}"
        )
    return "\n".join(lines)


def summary(results: list[Result]) -> str:
    """The last line: ours over the better of transformers' two ways, and over MLflow's server."""
    rates = {(row.server, row.clients, row.repeat): row.requests_per_s for row in results}

    def ahead(server: str, clients: int) -> float:
        """Median over repeats, each compared within itself: what slows a repeat slows both."""
        return median(
            rate / rates[server, clients, repeat]
            for (name, load, repeat), rate in rates.items()
            if (name, load) == ("ours", clients)
        )

    ratios = [
        min(ahead(name, load) for name in ("transformers", "transformers-batching"))
        for load in LOADS
    ]
    told = ",".join(f"{ratio:.2f}" for ratio in ratios)
    return f"vs_transformers={told} vs_mlflow_8={ahead('mlflow', 8):.2f}"


if __name__ == "__main__":
    main()
