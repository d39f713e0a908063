"""``mlflow-phi3 try``: does it answer, how fast, and how does my application ask it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from mlflow_phi3.azure.target import flag
from mlflow_phi3.cli.options import AS_JSON, TARGET
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.names import names_of
from mlflow_phi3.deployment.serverless import FLAVOR as SERVERLESS
from mlflow_phi3.deployment.tryout import KEY_VARIABLE, Samples, Tried, make_samples, try_queries
from mlflow_phi3.errors import DataError, GateError
from mlflow_phi3.evaluation.golden import GoldenQuery, load_golden
from mlflow_phi3.foundry.project import find_place
from mlflow_phi3.monitoring.calls import to_log
from mlflow_phi3.workflows.screen import Screen

app = typer.Typer()

_NAME = typer.Argument(..., help="The endpoint.")
_LOG = typer.Option(None, help="JSONL file to add the calls to, for `monitor`.")
_GOLDEN = typer.Option(None, help="JSONL file of golden queries.")


@app.command("try")
def try_command(
    name: str = _NAME,
    *,
    deployment: str = typer.Option("", help="Ask this deployment, whatever its share of traffic."),
    golden: Path | None = _GOLDEN,
    question: str = typer.Option("", help="Ask this question instead of golden queries."),
    text: str = typer.Option("", help="Ask a classifier about this text."),
    log: Path | None = _LOG,
    target: str = TARGET,
    as_json: bool = AS_JSON,
) -> None:
    """Ask golden queries of a deployed endpoint; print latency, tokens and code for an application.

    Exit code 6 when an answer is not as a golden query demands.
    """
    queries = load_golden(golden) if golden is not None else ()
    asked: list[dict[str, Any]] = []
    if question:
        asked.append({"messages": [{"role": "user", "content": question}]})
    if text:
        asked.append({"text": text})
    queries = tuple(GoldenQuery(inputs) for inputs in asked) or queries
    endpoint = names_of(None, name).endpoint
    names = names_of(deployment or None, endpoint)
    deployer = Deployer(target, told=lambda line: typer.echo(line, err=True))
    found = deployer.describe(names)
    tried = try_queries(queries, lambda inputs: deployer.callers.predict(names, inputs))
    place = find_place(target)
    samples = make_samples(
        endpoint,
        str(found["flavor"]),
        str(found["scoring_uri"]),
        place.target,
        tried[0].request,
        portal=not place.emulated,
    )
    if as_json:
        told = {"answers": [asdict(one) for one in tried], "samples": asdict(samples)}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False, default=str))
    else:
        _show(tried, samples)
    if log is not None:
        _write(log, tried)
    bad = [one for one in tried if one.faults]
    if bad:
        back = f"mlflow-phi3 rollback {name}{flag(target)} takes the last move of traffic back; or "
        raise GateError(
            "PHI3-G761",
            f"{len(bad)} of {len(tried)} answers are not as demanded; the first "
            f"{', '.join(bad[0].faults)}: {bad[0].answer[:200]!r}",
            where=f"endpoint {name}",
            fix=f"{'' if found['flavor'] == SERVERLESS else back}change the file",
        )


def _write(log: Path, tried: tuple[Tried, ...]) -> None:
    """Add the calls to a log; content safety's refusals and other errors end the command before.

    Raises:
        DataError: It cannot be written.
    """
    lines = [
        to_log(one.request, one.response, at=one.at, status=200, latency_ms=one.latency_s * 1000)
        for one in tried
    ]
    try:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise DataError(
            "PHI3-D094", f"cannot be written: {error.strerror}", where=str(log), fix="check --log"
        ) from error


def _show(tried: tuple[Tried, ...], samples: Samples) -> None:
    screen = Screen()
    rows = [
        [
            one.question,
            one.answer,
            f"{one.latency_s:.2f} s",
            _tokens(one.prompt_tokens, one.completion_tokens),
            "; ".join(one.faults) or "ok",
        ]
        for one in tried
    ]
    screen.table("Answers", ["question", "answer", "latency", "tokens in / out", ""], rows)
    if samples.before:
        typer.echo(f"\n# The key, once\n{samples.before}")
        typer.echo(f'export {KEY_VARIABLE}="$({samples.key})"')
    else:
        typer.echo(f"\n# The key, once: {samples.key}\nexport {KEY_VARIABLE}=...")
    typer.echo(f"\n# curl\n{samples.curl}\n\n# Python\n{samples.python}")
    for what, link in samples.links.items():
        typer.echo(f"\n# {what}\n{link}")


def _tokens(prompt: int | None, completion: int | None) -> str:
    return "not told" if prompt is None and completion is None else f"{prompt} / {completion}"
