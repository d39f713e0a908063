"""How the search for the best trial goes."""

import re
import unicodedata
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.model import ModelConfig
from mlflow_phi3.config.parse import suggest
from mlflow_phi3.errors import UsageError

LOSS = "eval/loss"
COSTS = ("cost/seconds", "cost/epochs", "cost/adapter_bytes")
_NOT_OF_JOBS = {
    "budget_cost": "budget_usd limits what its jobs cost",
    "concurrency": "max_jobs is how many train at the same time",
    "winner_seeds": "its jobs take no seed",
}
# File systems take 255 bytes.
_LONGEST_NAME = 200


class SweepConfig(ModelConfig, Hyperparameters):
    """A study: which trials, where, for how long."""

    n_trials: int = Field(default=8, ge=1)
    """Trials of the study in total, also after it was continued. There are fewer where the
    search space has fewer points: none is tried twice."""

    objective: str = LOSS
    """What is minimised: `eval/loss`, alone or with costs after commas (`cost/seconds` of
    training, `cost/epochs`, `cost/adapter_bytes`). With costs the report shows the Pareto front,
    nothing is pruned, and the winner is still the trial with the lowest loss."""

    space: str = ""
    """YAML file with swept parameters (`learning_rate: 1e-5..5e-4`, `lora_r: [8, 16]`); what is
    given directly wins."""

    sampler: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"] = "tpe"
    """How Optuna proposes trials. `grid` tries every combination and takes no ranges of reals."""

    sampler_options: str = ""
    """Further options of the sampler, as Optuna names them:
    `n_startup_trials=5,multivariate=true`."""

    pruner: Literal["none", "median", "halving", "asha", "hyperband", "patient"] = "median"
    """When a trial is stopped early, judged at each evaluation (see `evaluations_per_epoch`).
    `halving` keeps the better half of a group each time; the others are Optuna's."""

    pruner_options: str = ""
    """Further options of the pruner, as Optuna names them: `n_warmup_steps=2`. Its steps are
    evaluations."""

    share_epochs: bool = True
    """When `epochs` is swept and the schedule is constant, try every number of epochs with each
    proposal of the others: they share one training, so only the longest costs anything."""

    concurrency: int = Field(default=0, ge=0)
    """Trainings that go on together over one loaded base; 0 takes what fits the free memory, at
    most 4 on a CPU and 32 on a GPU."""

    backend: Literal["local", "ray", "foundry"] = "local"
    """Where trials train: `local`, in this process; `ray`, on a Ray cluster, a group of trials for
    each GPU, or for each node without any (needs the extra `[ray]`); `foundry`, as fine-tuning jobs
    of Azure AI Foundry (docs/foundry.md)."""

    ray_address: str = ""
    """Address of the Ray cluster (`auto`, `host:6379`); empty starts one on this machine."""

    study: str = ""
    """Name of the study. Give the name of an earlier one to continue it; empty begins a new one."""

    storage: str = ""
    """Optuna's storage: a database URL (`sqlite:///study.db`, `postgresql://user@host/name`, its
    password in `PGPASSWORD`: MLflow logs what follows `-P`) or the path of a journal file ending in
    `.log`. Empty: an SQLite file beside the tracking store."""

    budget_hours: float = Field(default=0.0, ge=0)
    """Begin no further trial after this many hours, and stop those that run; 0 sets no limit. The
    hours of every command and machine that worked on the study count."""

    budget_cost: float = Field(default=0.0, ge=0)
    """As `budget_hours`, in US dollars, at the price of `machine` or at `usd_per_hour`; 0 sets no
    limit."""

    machine: str = ""
    """Type of this machine, such as `Standard_NC24ads_A100_v4`: its price comes from a dated list
    (docs/sweep.md). Empty for your own."""

    usd_per_hour: float = Field(default=0.0, ge=0)
    """What an hour of this machine (with `backend=ray`, of the cluster) costs, US dollars, where
    that is not the list price of `machine`."""

    min_gain: float = Field(default=0.0, ge=0)
    """Stop when a further trial can hardly lower the loss by this many nats per token; 0 goes on.
    Judged by Optuna's regret bound, from ten complete trials on."""

    winner_seeds: int = Field(default=0, ge=0)
    """Train the winner again with this many other seeds, and report how far its loss depends on
    them; they do not count as trials."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """The parts of `objective`, the loss first."""
        return _parts(self.objective)

    @property
    def costs(self) -> tuple[str, ...]:
        """What is made small beside the loss."""
        return self.objectives[1:]

    @field_validator("study")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        # Checkpoints lie in a folder of this name, and MLflow is asked for it.
        # Of a script that writes vowels as marks, and joins letters, they are part of a word.
        marks = {c for c in name if unicodedata.category(c) in {"Mn", "Mc"}} | {*"\u200c\u200d"}
        letters = "".join(c for c in name if c not in marks)
        if name and not re.fullmatch(r"\w[\w. -]*", letters):
            raise ValueError("is letters, digits, blanks and . _ -, a letter or digit first")
        if len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"is longer than {_LONGEST_NAME} bytes")
        return name

    @field_validator("objective")
    @classmethod
    def _begins_with_the_loss(cls, objective: str) -> str:
        first, *costs = _parts(objective)
        if first != LOSS or not set(costs) <= set(COSTS) or len(costs) != len(set(costs)):
            raise ValueError(f"is neither {LOSS} nor that and some of {', '.join(COSTS)}")
        return objective

    @model_validator(mode="after")
    def _check_objective(self) -> Self:
        if len(self.objectives) == 1:
            return self
        if self.pruner != "none":
            raise ValueError("several objectives take pruner=none: Optuna prunes by one number")
        if self.sampler == "cmaes":
            raise ValueError("sampler=cmaes knows one objective only; sampler=tpe knows several")
        if self.min_gain:
            raise ValueError("min_gain is about one objective")
        if self.backend == "foundry":
            raise ValueError("backend=foundry has one objective: its jobs tell no other")
        return self

    @model_validator(mode="before")
    @classmethod
    def _prune_by_one_number(cls, values: Any) -> Any:
        """Without a word about it, several objectives have no pruner."""
        if isinstance(values, dict) and "," in str(values.get("objective", "")):
            return {"pruner": "none", **values}
        return values

    @model_validator(mode="after")
    def _price_the_budget(self) -> Self:
        if self.budget_cost and not (self.machine or self.usd_per_hour):
            raise ValueError("budget_cost needs machine or usd_per_hour: what an hour costs")
        return self

    @model_validator(mode="after")
    def _leave_nothing_unread(self) -> Self:
        """Refuse limits that the backend would not keep."""
        if self.backend == "foundry":
            for name, instead in _NOT_OF_JOBS.items():
                if getattr(self, name):
                    raise ValueError(f"backend=foundry has no {name}: {instead}")
        if self.ray_address and self.backend != "ray":
            raise ValueError(f"ray_address is for backend=ray, not {self.backend}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _read_space(cls, values: Any) -> Any:
        """Put the YAML file's parameters under those that were given directly."""
        if not isinstance(values, dict) or not values.get("space"):
            return values
        if values.keys() >= Hyperparameters.model_fields.keys():
            return values  # it was read before; by now the file may be gone, or another
        return {**load_space(Path(values["space"])), **values}


def _parts(objective: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in objective.split(","))


def load_space(path: Path) -> dict[str, Any]:
    """The parameters in a YAML file, as they are written there.

    Raises:
        UsageError: There is no such file, or something else is in it.
    """
    if not path.is_file():
        fix = "give a path relative to the working directory, or an absolute one"
        raise _no_space(f"there is no file {str(path)!r}", fix)
    try:
        text = path.read_text(encoding="utf-8")
        node, found = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _no_space(f"{path} is not YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise _no_space(f"{path} holds no mapping of parameters")
    unknown = sorted(map(str, found.keys() - Hyperparameters.model_fields.keys()))
    if unknown:
        told = f"{path} names unknown parameters: {', '.join(unknown)}"
        raise _no_space(told, suggest(unknown[0], list(Hyperparameters.model_fields)))
    names = [key.value for key, _ in node.value]
    for name, value in found.items():
        if names.count(name) > 1:  # YAML's readers keep the last, and say nothing
            raise _no_space(f"{path} gives {name} twice", "give it once")
        if value is None or isinstance(value, dict):
            raise _no_space(f"{path} gives {name} no value", "write one, a range or a list")
    return dict(found)


def _no_space(problem: str, fix: str = "write it as docs/sweep.md shows") -> UsageError:
    # A UsageError, as a validator's ValueError would be told of the whole, without the place.
    return UsageError("PHI3-U005", problem, where="space", fix=fix)
