"""Are the answers fit to be seen? A scan by Azure AI Content Safety."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mlflow_phi3.azure.safety import ContentSafety
from mlflow_phi3.evaluation.runner import Prediction


@dataclass(frozen=True, slots=True)
class UnsafeAnswer:
    """An answer that the service finds fault with.

    Args:
        place: ``source:line`` of its conversation.
        answer: What the model said.
        findings: Category and severity, in words.
    """

    place: str
    answer: str
    findings: tuple[str, ...]


def scan_answers(
    predictions: Iterable[Prediction],
    service: ContentSafety,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[UnsafeAnswer, ...]:
    """The answers that are too severe, in order.

    Args:
        predictions: What was answered.
        service: Whom to ask; it knows from which severity on.
        on_progress: Called with the number of answers read.

    Raises:
        AzureError: The service gives no verdict.
    """
    unsafe = []
    for count, row in enumerate(predictions, start=1):
        found = service.find(row.answer)
        if found:
            unsafe.append(UnsafeAnswer(row.place, row.answer, tuple(map(str, found))))
        if on_progress:
            on_progress(count)
    return tuple(unsafe)
