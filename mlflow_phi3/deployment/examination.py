"""What a new deployment is asked before anybody else asks it: golden queries, and parity.

Parity: its answers to fixed prompts are those of the model that was trained, as the certificate of
the registration holds them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.data.replies import Ask
from mlflow_phi3.evaluation.golden import GoldenQuery, check_answers
from mlflow_phi3.serving.certificate import Certificate, certify_endpoint

CERTIFICATE = "deploy/certificate.json"
"""Where the run that registered a version keeps what its latest deployment answered."""
HELLO = GoldenQuery({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32})
"""Asked where nothing else is known of a model."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What is asked.

    Args:
        queries: Golden queries.
        registered: The certificate of the registration; None when there is none.
        keep: Gets the certificate with the endpoint's answers, whether it holds or not.
    """

    queries: tuple[GoldenQuery, ...] = ()
    registered: Mapping[str, Any] | None = None
    keep: Callable[[Certificate], None] = lambda _certificate: None


def examine(examination: Examination, ask: Ask, *, where: str, told: Callable[[str], None]) -> None:
    """Ask a deployment all of it.

    Args:
        examination: What is asked.
        ask: Sends one request to this very deployment.
        where: The deployment, as an error names it.
        told: Gets a line on each part.

    Raises:
        GateError: An answer is not as it has to be.
    """
    if examination.queries:
        check_answers(examination.queries, ask, where=where)
        told(f"golden queries: {len(examination.queries)} answered well")
    else:
        told("no golden queries: the model has no input example, and no file of them is named")
    if examination.registered is None:
        told("no parity check: the version has no certificate of its registration")
        return
    certificate = certify_endpoint(examination.registered, ask, where=where)
    examination.keep(certificate)
    certificate.check()
    told(f"parity: {len(certificate.prompts)} answers are those of the model that was trained")
