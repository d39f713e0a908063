"""What has to hold before a model becomes a version, and what it is called."""

from typing import Literal

from pydantic import Field

from mlflow_phi3.config.comparison import ComparisonConfig


class RegisterConfig(ComparisonConfig):
    """From a winner to a registered version."""

    registered_model: str = ""
    """Name of the registered model that gets a new version; empty is `phi3-chat`, or
    `phi3-classifier` where labels are learnt."""

    model_format: Literal["merged", "adapter"] = "merged"
    """What is registered: `merged`, a whole checkpoint that needs nothing beside it, or `adapter`,
    a few megabytes that are put on the same base when they are loaded."""

    model_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of the registered weights."""

    parity_tolerance: float = Field(default=0.02, gt=0)
    """Largest difference of a logit between the trained model and the registered one, relative to
    the largest logit."""

    parity_examples: int = Field(default=8, ge=1)
    """Test conversations on which the trained and the registered model are compared."""

    certificate_tokens: int = Field(default=24, ge=1)
    """Tokens of the answer to each fixed prompt, which the trained, reloaded, merged and logged
    model must answer alike."""

    golden: str = ""
    """JSONL file of questions whose answers must hold before anything is registered; see
    docs/metrics.md."""

    promote: Literal["better", "always", "never"] = "better"
    """When the new version becomes `champion`: when it is `better` than the present one beyond
    noise on the same test rows (or there is none), `always`, or `never`."""
