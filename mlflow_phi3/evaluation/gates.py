"""Is it good enough to go on? Each gate is a pure function; the verdict says all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlflow_phi3.errors import GateError
from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.golden import GoldenResult
from mlflow_phi3.evaluation.notation import count_of

Promote = Literal["better", "always", "never"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition and how it stands.

    Args:
        name: ``finite``, ``parity``, ``golden`` or ``champion``.
        passed: Whether it holds.
        blocks: Whether failing it stops the registration; ``champion`` only withholds the alias.
        why: The figures behind it, in words.
    """

    name: str
    passed: bool
    blocks: bool
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All gates of one registration.

    Args:
        gates: In the order they were asked.
    """

    gates: tuple[Gate, ...]

    @property
    def register(self) -> bool:
        """Whether the model may become a version at all."""
        return all(gate.passed for gate in self.gates if gate.blocks)

    @property
    def promote(self) -> bool:
        """Whether it may become the champion."""
        return all(gate.passed for gate in self.gates)

    @property
    def why(self) -> str:
        """The gates that fail, or, when none does, the last one's words."""
        failing = [gate for gate in self.gates if not gate.passed]
        if not failing:
            return self.gates[-1].why if self.gates else ""
        return "; ".join(f"{gate.name}: {gate.why}" for gate in failing)

    def check(self, where: str) -> None:
        """Stop here when a blocking gate fails.

        Args:
            where: The model, as an error names it.

        Raises:
            GateError: Names every gate that fails.
        """
        if not self.register:
            raise GateError(
                "PHI3-G070",
                "; ".join(
                    f"{gate.name}: {gate.why}"
                    for gate in self.gates
                    if gate.blocks and not gate.passed
                ),
                where=where,
                fix="see register/gate.json of the run, and docs/metrics.md for each gate",
            )

    def to_json(self) -> dict[str, Any]:
        """The verdict as an artifact holds it."""
        return {
            "register": self.register,
            "promote": self.promote,
            "gates": [asdict(gate) for gate in self.gates],
        }


def finite_gate(metrics: Mapping[str, float], weights_finite: bool) -> Gate:
    """Every metric and every weight is a number."""
    odd = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    faults = [f"{name} is {metrics[name]}" for name in odd]
    faults += [] if weights_finite else ["a weight is not a number"]
    return Gate("finite", not faults, True, ", ".join(faults) or "all metrics and weights")


def parity_gate(*, same: bool, max_rel: float, differing: int, tolerance: float) -> Gate:
    """The reloaded model is the trained one."""
    told = f"logits differ by {max_rel:.2g} of the largest, tolerance {tolerance:g}"
    if differing:
        told += f"; {differing} most likely tokens differ"
    return Gate("parity", same, True, told)


def golden_gate(results: Sequence[GoldenResult]) -> Gate:
    """Every golden query is answered as demanded."""
    failing = [result for result in results if not result.passed]
    told = f"{len(results) - len(failing)} of {len(results)} golden queries pass"
    if failing:
        told += "; " + "; ".join(f"{row.place} {', '.join(row.faults)}" for row in failing[:3])
    return Gate("golden", not failing, True, told)


def champion_gate(comparison: Comparison | None, promote: Promote, *, unlike: str = "") -> Gate:
    """The challenger beats the champion on the same rows beyond noise.

    Args:
        comparison: Challenger minus champion; None when there is no champion.
        promote: ``always`` and ``never`` overrule the comparison.
        unlike: Why the two cannot be compared, in words; empty when they can.
    """
    if promote != "better":
        return Gate("champion", promote == "always", False, f"promote={promote}")
    if unlike:
        return Gate("champion", False, False, unlike)
    if comparison is None:
        return Gate("champion", True, False, "the first champion")
    rows = count_of(comparison.rows, "row")
    told = f"test loss {comparison.difference:+.4f} against the champion on {rows}"
    if comparison.too_few:
        told += " (too few to tell them apart)"
    else:
        ends = f"{comparison.low:+.4f} to {comparison.high:+.4f}"
        told += f" ({comparison.confidence:.0%} interval {ends})"
    return Gate("champion", comparison.better, False, told)
