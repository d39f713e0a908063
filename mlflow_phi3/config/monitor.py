"""What `monitor` looks at."""

from typing import ClassVar

from pydantic import Field

from mlflow_phi3.config.base import Config


class MonitorConfig(Config):
    """A window of a deployment's life."""

    described_in: ClassVar[str] = "mlflow-phi3 monitor --help"

    endpoint: str
    """The endpoint."""

    deployment: str = ""
    """Only this deployment of it; empty takes all."""

    target: str = "azure-foundry"
    """As `--target` of `mlflow deployments`."""

    hours: float = Field(default=24.0, gt=0, le=24 * 30)
    """How far back to look."""

    log: str = ""
    """JSONL file of calls that an application wrote down (docs/monitor.md); empty reads what the
    data collector keeps of a managed endpoint."""

    train_data: str = ""
    """Training data to measure drift against, as of `prepare`; empty measures none."""

    limits: tuple[str, ...] = ()
    """Figures that may not go beyond, as `monitor/error_rate=0.05`; one beyond is exit code 6."""

    price_model: str = ""
    """Model of the catalog whose price per token a serverless endpoint has."""

    usd_per_hour: float = Field(default=0.0, ge=0)
    """What an hour of it costs in all, US dollars, also when idle; 0 is not known."""
