"""The parity certificate: trained = adapter reloaded = merged = MLflow pyfunc = HTTP endpoint.

Logits are compared where they can be seen (:mod:`mlflow_phi3.modeling.parity`), answers to fixed
prompts everywhere. Greedy answers to the same prompts have to be equal letter by letter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import GateError
from mlflow_phi3.modeling.parity import Parity

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Takes a chat-completion request, gives the completion."""

FIXED_PROMPTS: tuple[tuple[Message, ...], ...] = (
    (Message("user", "How do I turn it on?"),),
    (Message("system", "You are a helpful assistant."), Message("user", "It does not start.")),
    (
        Message("user", "Hello!"),
        Message("assistant", "Hello! How can I help?"),
        Message("user", "What can you do?"),
    ),
    (Message("user", "Résumé: ½ + ½ = 1, naïve? 🙂"),),
)
"""Asked of every model: one turn, a system message, several turns, letters beyond ASCII."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One form of the model beside the trained one.

    Args:
        name: ``adapter``, ``merged``, ``pyfunc`` or ``endpoint``.
        answers_equal: Whether all its answers to the fixed prompts are the reference's.
        differing: Indices of those prompts whose answers differ.
        logits: How far its logits are off, where they can be seen.
        tolerance: What ``logits`` are held against.
    """

    name: str
    answers_equal: bool
    differing: tuple[int, ...] = ()
    logits: Parity | None = None
    tolerance: float = 0.0

    @property
    def holds(self) -> bool:
        """Logits within the tolerance where they are known, and equal answers.

        A form rounded to bfloat16 may decide a tie otherwise, and then its answer goes another way:
        where logits are known, answers alone do not break it.
        """
        if self.logits is not None:
            return self.logits.within(self.tolerance)
        return self.answers_equal


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was compared, and whether it is all the same model.

    Args:
        model: What the certificate is of: a run, a version.
        made_at: UTC, ISO 8601.
        max_tokens: Tokens of an answer.
        prompts: What was asked.
        answers: The reference's.
        stages: The forms, in order.
    """

    model: str
    made_at: str
    max_tokens: int
    prompts: tuple[tuple[Message, ...], ...]
    answers: tuple[str, ...]
    stages: tuple[Stage, ...]

    @property
    def holds(self) -> bool:
        """Whether every stage holds, and there is one."""
        return bool(self.stages) and all(stage.holds for stage in self.stages)

    def check(self) -> None:
        """Stop here when a form is not the same model.

        Raises:
            GateError: Names the first that is not.
        """
        for stage in self.stages:
            if not stage.holds:
                told = f"{len(stage.differing)} of {len(self.prompts)} answers differ"
                if stage.logits:
                    told += f", logits by {stage.logits.max_rel:.2g} of the largest"
                raise GateError(
                    "PHI3-G071",
                    f"the {stage.name} is not the model that was trained: {told}",
                    where=self.model,
                    fix="see the certificate for the answers; register with model_dtype=float32",
                )

    def to_json(self) -> dict[str, Any]:
        """The certificate as an artifact holds it."""
        return asdict(self) | {
            "holds": self.holds,
            "stages": [asdict(stage) | {"holds": stage.holds} for stage in self.stages],
        }


def certify(
    model: str, reference: Sequence[str], stages: Sequence[Stage], *, max_tokens: int
) -> Certificate:
    """Put the stages together.

    Args:
        model: What the certificate is of.
        reference: The trained model's answers to :data:`FIXED_PROMPTS`.
        stages: As :func:`compare_stage` makes them.
        max_tokens: Tokens of an answer.
    """
    return Certificate(
        model=model,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        max_tokens=max_tokens,
        prompts=FIXED_PROMPTS,
        answers=tuple(reference),
        stages=tuple(stages),
    )


def compare_stage(
    name: str,
    reference: Sequence[str],
    answers: Sequence[str],
    *,
    logits: Parity | None = None,
    tolerance: float = 0.0,
) -> Stage:
    """Hold one form's answers, without outer white space, against the reference's."""
    pairs = zip(reference, answers, strict=True)
    odd = tuple(n for n, (wanted, found) in enumerate(pairs) if wanted.strip() != found.strip())
    return Stage(name, not odd, odd, logits, tolerance)


def ask_all(ask: Ask, *, max_tokens: int) -> list[str]:
    """Greedy answers to :data:`FIXED_PROMPTS` from anything that speaks chat completions."""
    answers = []
    for prompt in FIXED_PROMPTS:
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
        answers.append(str(ask(body)["choices"][0]["message"]["content"]))
    return answers


def over_http(url: str, *, key: str = "", timeout_s: float = 120.0) -> Ask:
    """Asks an endpoint by POST.

    Args:
        url: Scoring URL, such as ``http://127.0.0.1:8000/invocations``.
        key: Sent as a bearer token when there is one.
        timeout_s: For each answer, in seconds.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        response = httpx.post(url, json=dict(body), headers=headers, timeout=timeout_s)
        response.raise_for_status()
        found: Mapping[str, Any] = response.json()
        return found

    return ask
