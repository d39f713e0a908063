"""Asking a deployed endpoint some questions, and showing others how to ask it."""

import datetime as dt
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.azure.payload import to_request
from mlflow_phi3.azure.serverless import CHAT
from mlflow_phi3.azure.target import Target, shell_settings
from mlflow_phi3.data.replies import answer_text
from mlflow_phi3.deployment.examination import HELLO
from mlflow_phi3.evaluation.golden import GoldenQuery, judge

KEY_VARIABLE = "ENDPOINT_KEY"
"""Environment variable that the samples take the key from: no command of ours prints a key."""
_TRUST = '--cacert "$REQUESTS_CA_BUNDLE" '


@dataclass(frozen=True, slots=True)
class Tried:
    """One question and what came back.

    Args:
        at: When it was asked.
        request: The chat.
        response: What came back.
        question: The user's last message.
        answer: The text of the answer.
        latency_s: From sending to the whole answer, seconds.
        prompt_tokens: As the endpoint counts them; None when it does not tell.
        completion_tokens: Likewise.
        faults: What was demanded and is not so.
    """

    at: dt.datetime
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    question: str
    answer: str
    latency_s: float
    prompt_tokens: int | None
    completion_tokens: int | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Samples:
    """How an application asks the endpoint.

    Args:
        python: A program.
        curl: A command.
        key: Command that prints the key.
        links: Pages of the portal by what they show; none for the emulator.
        before: Commands that a shell needs first; empty for Azure.
    """

    python: str
    curl: str
    key: str
    links: Mapping[str, str]
    before: str = ""


def try_queries(
    queries: Sequence[GoldenQuery],
    predict: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> tuple[Tried, ...]:
    """Ask one after the other.

    Args:
        queries: What is asked; none asks a greeting.
        predict: Sends one request.
    """
    found = []
    for query in queries or (HELLO,):
        at, began = dt.datetime.now(dt.UTC), time.perf_counter()
        answer = predict(query.inputs)
        latency_s = time.perf_counter() - began
        text = answer_text(answer)
        usage = answer.get("usage") or {}
        found.append(
            Tried(
                at=at,
                request=query.inputs,
                response=answer,
                question=query.messages[-1].content,
                answer=text or "",
                latency_s=latency_s,
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
                faults=judge(query, text).faults,
            )
        )
    return tuple(found)


def make_samples(
    name: str, kind: str, uri: str, target: Target, question: Mapping[str, Any], *, portal: bool
) -> Samples:
    """Return programs that ask an endpoint.

    Args:
        name: The endpoint.
        kind: ``serverless`` or another: managed.
        uri: Its scoring URI.
        target: Its project.
        question: What the programs ask.
        portal: Whether there is a portal, which the emulator has not.
    """
    serverless = kind == "serverless"
    body: Mapping[str, Any] = question if serverless else to_request(question)
    links = {}
    if portal:
        page = "serverless" if serverless else "realtime"
        links = {
            "project": f"https://ai.azure.com/build/overview?wsid={target.path}",
            "endpoint": f"https://ml.azure.com/endpoints/{page}/{name}/detail?wsid={target.path}",
        }
    return Samples(
        python=(_openai if serverless else _httpx)(name, uri, body),
        curl=(
            f'curl {"" if portal else _TRUST}{uri} -H "Authorization: Bearer ${KEY_VARIABLE}" '
            f'-H "Content-Type: application/json" -d {shlex.quote(json.dumps(body))}'
        ),
        key=(_key_of_azure if portal else _key_of_emulator)(name, target, serverless=serverless),
        links=links,
        before="" if portal else shell_settings(target, emulated=True),
    )


def _key_of_azure(name: str, target: Target, *, serverless: bool) -> str:
    az = "serverless-endpoint" if serverless else "online-endpoint"
    return f"az ml {az} get-credentials -n {name} -g {target.group} -w {target.project}"


def _key_of_emulator(name: str, target: Target, *, serverless: bool) -> str:
    """As Azure's own SDK asks: ``az`` would have to be signed in to the emulator."""
    kind = "serverless_endpoints" if serverless else "online_endpoints"
    place = ", ".join(map(repr, (target.subscription, target.group, target.project)))
    program = (
        "from azure.ai.ml import MLClient; from azure.identity import DefaultAzureCredential; "
        f"ml = MLClient(DefaultAzureCredential(disable_instance_discovery=True), {place}); "
        f"print(ml.{kind}.get_keys({name!r}).primary_key)"
    )
    return f'python -c "{program}"'


def _openai(name: str, uri: str, body: Mapping[str, Any]) -> str:
    return f"""import os
from openai import OpenAI

client = OpenAI(base_url="{uri.removesuffix(CHAT)}/v1", api_key=os.environ["{KEY_VARIABLE}"])
answer = client.chat.completions.create(model="{name}", messages={body["messages"]!r})
print(answer.choices[0].message.content)"""


def _httpx(_name: str, uri: str, body: Mapping[str, Any]) -> str:
    return f"""import os
import httpx

headers = {{"Authorization": "Bearer " + os.environ["{KEY_VARIABLE}"]}}
answer = httpx.post("{uri}", headers=headers, timeout=60, json={dict(body)!r})
print(answer.json())"""
