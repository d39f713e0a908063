"""What ``-C`` takes: how a model version is deployed to Azure AI Foundry."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mlflow_phi3.config.base import Config


class DeployConfig(Config):
    """The keys of ``mlflow deployments create|update -C name=value``."""

    described_in: ClassVar[str] = "mlflow deployments help -t azure-foundry"

    mode: Literal["auto", "managed", "serverless"] = "auto"
    """Where it runs: `managed` (machines of your own, billed by the hour, any MLflow model),
    `serverless` (a model that Foundry tuned, billed by the hour and by token), or `auto`: by where
    the model version came from."""

    instance_type: str = ""
    """Machine type of a managed deployment, such as `Standard_NC24ads_A100_v4`. Empty keeps what it
    has; a new one gets `Standard_DS3_v2` below 2 GB of weights, else `Standard_NC24ads_A100_v4`."""

    instance_count: int | None = Field(default=None, ge=1, le=20)
    """How many machines. Empty keeps what it has; a new deployment gets 1."""

    traffic: int | None = Field(default=None, ge=0, le=100)
    """Percent of the endpoint's requests that go to this deployment. Empty: all for a service whose
    model is named, else what it has."""

    keep_previous: bool = True
    """Keep the deployment that a new version takes over from, without traffic, so that `rollback`
    takes seconds. It is billed until it is deleted or replaced. `false` without a model deletes
    what a service has idle."""

    golden: str = ""
    """JSONL file of golden queries (`{"messages": [...], "expected": "..."}`, `expected` may be
    left out), asked of a new deployment before it gets traffic, and of one that was changed. Empty
    asks the model's own input example, where a model is named."""

    verify: bool = True
    """Check the answers of a deployment before traffic moves, also of one that is as wanted: golden
    queries and parity."""

    parity: bool = True
    """Hold a new deployment's answers to fixed prompts against those of the certificate that the
    version was registered with; a version without one is not held. On other hardware a model that
    is rounded to bfloat16 may decide a tie otherwise: `false` leaves it at the golden queries."""

    collect_data: bool | None = None
    """Let Azure's data collector keep requests and answers of a managed deployment in the project's
    storage, for `mlflow-phi3 monitor`; tell your users. Empty keeps what it has, also when a new
    version takes over; a new deployment collects nothing."""

    content_safety: bool | None = None
    """Azure AI Content Safety around the model: by Foundry itself for a serverless deployment, by
    the scoring process for a managed one that has a `content_safety_connection`. Off needs a
    reason. Empty keeps what it has; a new deployment has it on."""

    content_safety_reason: str = ""
    """Why content safety is off; written into a tag."""

    content_safety_connection: str = ""
    """Name of the project's connection to an Azure AI Content Safety resource, which the scoring
    process of a managed deployment then asks about every question and answer. Empty keeps what the
    deployment has; a new one has none."""

    environment_variables: str = ""
    """Variables of the scoring process, as `NAME=value,OTHER=value`. Not for secrets: Azure shows
    them to every reader of the project."""

    request_timeout_s: int | None = Field(default=None, ge=1, le=180)
    """How long one request may take, seconds; Azure allows at most 180. Empty keeps what it has; a
    new deployment gets 90."""

    usd_per_hour: float | None = Field(default=None, gt=0)
    """Price of one machine, or of a serverless endpoint, US dollars, for the cost that a dry run
    prints. Empty takes the catalog's dated list price of the machine type, where it has one."""

    ttl_hours: float | None = Field(default=None, gt=0)
    """Hours after which `mlflow-phi3 reap` deletes the endpoint. Empty: never."""

    timeout_s: float = Field(default=3600, gt=0)
    """How long the command waits in all, seconds. What was begun goes on in Azure; the same command
    run again takes it up."""

    synchronous: bool = True
    """Wait until it serves. `false` returns once the deployment has been begun; the same command
    run again checks it and gives it traffic."""

    dry_run: bool = False
    """Print what would be done, with the exact requests, and do nothing."""

    @model_validator(mode="after")
    def _off_with_reason(self) -> "DeployConfig":
        if self.content_safety is False and not self.content_safety_reason.strip():
            message = "content_safety=false needs content_safety_reason="
            raise ValueError(message)
        return self
