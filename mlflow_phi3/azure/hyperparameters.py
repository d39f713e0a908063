"""Our hyperparameters as Foundry's fine-tuning jobs take them, and back: the one table.

Source: azure-ai-ml's fine-tuning samples (names and text values), the portal's limits of 2026-01
(batch 1 to 32, epochs 1 to 10).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from mlflow_phi3.errors import UsageError

LARGEST_BATCH = 32
MOST_EPOCHS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        ours: Parameter of ours.
        azure: What it becomes in the job; empty where Foundry has no word for it.
        note: How.
    """

    ours: str
    azure: str
    note: str


_DECIDES = "Foundry decides; refused when given"
TABLE = (
    Row("epochs", "num_train_epochs", f"as it is, 1 to {MOST_EPOCHS}"),
    Row("learning_rate", "learning_rate", "as it is: absolute, not the portal's multiplier"),
    Row(
        "batch_size_multiplier",
        "per_device_train_batch_size",
        f"times `per_device_batch_size`: the effective batch, 1 to {LARGEST_BATCH}",
    ),
    Row(
        "per_device_batch_size",
        "per_device_train_batch_size",
        "times `batch_size_multiplier`",
    ),
    Row("lora_r", "", _DECIDES),
    Row("lora_alpha", "", _DECIDES),
    Row("lora_dropout", "", _DECIDES),
    Row("target_modules", "", _DECIDES),
    Row("rslora", "", _DECIDES),
    Row("dora", "", _DECIDES),
    Row("scheduler", "", _DECIDES),
    Row("warmup_ratio", "", _DECIDES),
    Row("weight_decay", "", _DECIDES),
    Row("max_grad_norm", "", _DECIDES),
    Row("optimizer", "", _DECIDES),
    Row("loss", "", _DECIDES),
    Row("label_smoothing", "", _DECIDES),
    Row("class_weights", "", _DECIDES),
    Row("evaluations_per_epoch", "", _DECIDES),
    Row("seed", "", _DECIDES),
    Row("precision", "", _DECIDES),
    Row("quantization", "", _DECIDES),
    Row("device", "", _DECIDES),
    Row("model_revision", "", "the registry's newest version is taken; refused when given"),
)


def to_azure(*, epochs: int, learning_rate: float, batch_size: int) -> dict[str, str]:
    """Return a job's ``hyperParameters``; all of them are text.

    Args:
        epochs: Passes over the training data.
        learning_rate: Peak.
        batch_size: Examples of one optimizer step.

    Raises:
        UsageError: Foundry does not take the value.
    """
    check_range(epochs=epochs, batch_size=batch_size)
    return {
        "num_train_epochs": str(epochs),
        # Written out, as Microsoft's samples do: 0.00002 and not 2e-05.
        "learning_rate": f"{Decimal(repr(float(learning_rate))):f}",
        "per_device_train_batch_size": str(batch_size),
    }


def check_range(*, epochs: int, batch_size: int) -> None:
    """Refuse what is more than Foundry takes.

    Args:
        epochs: Passes over the training data.
        batch_size: Examples of one optimizer step.

    Raises:
        UsageError: One of them is.
    """
    for name, value, most, what in (
        ("epochs", epochs, MOST_EPOCHS, "epochs"),
        ("batch_size_multiplier", batch_size, LARGEST_BATCH, "examples in a step"),
    ):
        if not 1 <= value <= most:
            raise UsageError(
                "PHI3-U771",
                f"{value} {what}; Foundry takes 1 to {most}",
                where=name,
                fix="take fewer, or train with backend=local",
            )


def from_azure(hyperparameters: Mapping[str, str]) -> dict[str, int | float | str]:
    """Return our names and values for a job's ``hyperParameters``; what is missing stays out.

    The effective batch comes back as ``per_device_batch_size`` with a multiplier of 1. What we
    have no word for, as in a job of the portal, keeps its name and text.
    """
    found: dict[str, int | float | str] = {}
    for name, text in hyperparameters.items():
        ours, kind = _OURS.get(name, (name, str))
        try:
            found[ours] = kind(text)
        except ValueError:
            found[name] = text
    if "per_device_batch_size" in found:
        found["batch_size_multiplier"] = 1
    return found


_OURS: Mapping[str, tuple[str, Callable[[str], int | float | str]]] = {
    "num_train_epochs": ("epochs", int),
    "learning_rate": ("learning_rate", float),
    "per_device_train_batch_size": ("per_device_batch_size", int),
}


def check_expressible(given: Iterable[str]) -> None:
    """Refuse parameters that the person set and Foundry has no word for.

    Args:
        given: Names of what was set.

    Raises:
        UsageError: Some cannot be told to Foundry.
    """
    silent = {row.ours for row in TABLE if not row.azure}
    refused = sorted(silent & set(given))
    if refused:
        raise UsageError(
            "PHI3-U772",
            "a fine-tuning job in Foundry has no such setting: Foundry decides it",
            where=", ".join(refused),
            fix="leave it out, or train with backend=local",
        )


def render_table() -> str:
    """The table as Markdown, for the documentation."""
    lines = ["| ours | Azure job | how |", "| --- | --- | --- |"]
    for row in TABLE:
        azure = f"`{row.azure}`" if row.azure else "none"
        lines.append(f"| `{row.ours}` | {azure} | {row.note} |")
    return "\n".join(lines) + "\n"
