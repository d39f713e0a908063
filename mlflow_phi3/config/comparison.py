"""How surely one model is held to be better than another."""

from pydantic import Field

from mlflow_phi3.config.base import Config


class ComparisonConfig(Config):
    """The bootstrap by which two models are compared on the same rows."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the bootstrap intervals, such as 0.95."""

    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind each interval."""
