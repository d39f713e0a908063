"""The parity certificate: trained = adapter reloaded = merged = MLflow pyfunc = HTTP endpoint.

Logits are compared where they can be seen (:mod:`mlflow_phi3.modeling.parity`), answers to fixed
prompts everywhere. Greedy answers to the same prompts have to be equal letter by letter.

``register`` makes one of the first four before it makes a version, and logs it as
:data:`ARTIFACT` of its run; :func:`certify_endpoint` adds the fifth, after a deployment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from mlflow_phi3.data.messages import Message, to_dicts
from mlflow_phi3.data.replies import Ask, answer_text
from mlflow_phi3.errors import GateError
from mlflow_phi3.modeling.agreement import Parity

ARTIFACT = "register/certificate.json"
"""Where the run that registered a version keeps its certificate."""

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
        answers: The trained model's.
        stages: The forms, in order.
        served: The merged model's answers, in the number format in which it is served; pyfunc and
            endpoint are held against these.
        labels: What a classifier tells apart; empty for a model that answers.
    """

    model: str
    made_at: str
    max_tokens: int
    prompts: tuple[tuple[Message, ...], ...]
    answers: tuple[str, ...]
    stages: tuple[Stage, ...]
    served: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

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

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Certificate":
        """A certificate from its artifact."""
        return TypeAdapter(cls).validate_python(found)

    def to_json(self) -> dict[str, Any]:
        """The certificate as an artifact holds it."""
        return asdict(self) | {
            "holds": self.holds,
            "stages": [asdict(stage) | {"holds": stage.holds} for stage in self.stages],
        }


def certify(
    model: str,
    reference: Sequence[str],
    stages: Sequence[Stage],
    *,
    max_tokens: int,
    served: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Certificate:
    """Put the stages together.

    Args:
        model: What the certificate is of.
        reference: The trained model's answers to :data:`FIXED_PROMPTS`.
        stages: As :func:`compare_stage` makes them.
        max_tokens: Tokens of an answer.
        served: The merged model's answers; empty: the reference's.
        labels: What a classifier tells apart.
    """
    return Certificate(
        model=model,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        max_tokens=max_tokens,
        prompts=FIXED_PROMPTS,
        answers=tuple(reference),
        stages=tuple(stages),
        served=tuple(served or reference),
        labels=tuple(labels),
    )


def certify_endpoint(registered: Mapping[str, Any], ask: Ask, *, where: str) -> Certificate:
    """Hold a deployed model's answers against the certificate it was registered with.

    ::

        registered = json.loads(run.download(ARTIFACT, folder).read_text())
        certificate = certify_endpoint(registered, ask, where="deployment chat/blue")
        run.log_json(certificate.to_json(), "deploy/certificate.json")
        certificate.check()

    Args:
        registered: The certificate of the registration, as :data:`ARTIFACT` holds it.
        ask: Sends one request to the endpoint (``{"messages", "max_tokens", "temperature"}``, or
            ``{"text"}`` for a classifier) and gives its answer: a chat completion, or predictions.
        where: The deployment, as an error names it.

    Returns:
        The registration's certificate with the stage ``endpoint`` added; nothing is raised for a
        stage that does not hold, so that it can be logged before :meth:`Certificate.check`.

    Raises:
        GateError: An answer has no text.
    """
    earlier = Certificate.from_json(registered)
    answers = ask_all(
        ask, max_tokens=earlier.max_tokens, labels=bool(earlier.labels), prompts=earlier.prompts
    )
    stage = compare_stage("endpoint", earlier.served, answers)
    return replace(
        earlier,
        model=where,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        stages=(*(kept for kept in earlier.stages if kept.name != stage.name), stage),
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


def ask_all(
    ask: Ask,
    *,
    max_tokens: int,
    labels: bool = False,
    prompts: Sequence[Sequence[Message]] = FIXED_PROMPTS,
) -> list[str]:
    """Greedy answers to ``prompts``, or the labels of their last messages.

    Raises:
        GateError: An answer has no text.
    """
    answers = []
    for prompt in prompts:
        chat = {"messages": to_dicts(prompt), "max_tokens": max_tokens, "temperature": 0.0}
        answer = ask({"text": prompt[-1].content} if labels else chat)
        text = answer_text(answer)
        if text is None:
            raise GateError(
                "PHI3-G072",
                f"asked {prompt[-1].content!r}, the model gave no text: {str(answer)[:200]}",
                where="certificate",
                fix="ask the model by hand, and look at its log",
            )
        answers.append(text)
    return answers
