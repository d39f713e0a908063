"""How far two models are apart; see :mod:`mlflow_phi3.modeling.parity` for how it is measured."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two models are apart on the same tokens.

    Args:
        max_abs: Largest absolute difference of a logit.
        max_rel: ``max_abs`` relative to the largest absolute logit of the first model.
        positions: How many positions were compared.
        differing: At how many the most likely token differs.
        widest_flip: Of those, the largest lead that the first model gave its token over the one the
            second prefers, relative as ``max_rel``: near zero means that only ties were decided
            otherwise, as rounding to bfloat16 does.
    """

    max_abs: float
    max_rel: float
    positions: int = 0
    differing: int = 0
    widest_flip: float = 0.0

    def within(self, tolerance: float) -> bool:
        """Whether something was compared, all is a number, and nothing is further apart.

        Most likely tokens may differ only where the first model itself led by no more than
        ``tolerance``.
        """
        return (
            self.positions > 0
            and math.isfinite(self.max_rel)
            and self.max_rel <= tolerance
            and self.widest_flip <= tolerance
        )
