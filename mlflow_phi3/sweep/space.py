"""The search space: from swept parameters to Optuna's distributions and back to a trial's spec."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mlflow_phi3.config.hyperparameters import UNWEIGHTED, Hyperparameters, parse_weights
from mlflow_phi3.config.swept import Auto, Choices, Interval, Pin, Scalar, Swept, values_of
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.base import DEMO, Base
from mlflow_phi3.modeling.catalog import find, learning_rates
from mlflow_phi3.training.engine.adapters import find_linear, plan_layout
from mlflow_phi3.training.engine.loss import find_loss
from mlflow_phi3.training.optimizer import find_optimizer
from mlflow_phi3.training.spec import (
    ALL_LINEAR,
    LINEAR_LAYERS,
    SHAREABLE,
    LoraSpec,
    TrialSpec,
)

EPOCHS = "epochs"
TARGETS = "target_modules"
# The demo knows its world by heart: larger steps lower its loss further, and its answers go wrong.
_DEMO_RATES = Interval(6e-5, 1.2e-4, log=True)


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched and what is fixed.

    Args:
        swept: By parameter: a range or choices.
        pinned: By parameter: the value of every trial.
        seed: Of every trial.
    """

    swept: Mapping[str, Interval | Choices]
    pinned: Mapping[str, Scalar]
    seed: int = 0

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each swept parameter."""
        return {name: _distribution(value) for name, value in self.swept.items()}

    def spec(self, params: Mapping[str, Any]) -> TrialSpec:
        """The spec of a trial for which ``params`` were proposed."""
        return _spec({**self.pinned, **params}, seed=self.seed)

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether ``params`` are those that are searched; of a wish some may be missing."""
        return set(params) == set(self.swept)

    def largest(self) -> TrialSpec:
        """The trial that takes the most memory: the highest rank on the most layers."""
        some = {name: _most(value) for name, value in self.swept.items()}
        return self.spec(some)

    @property
    def most_evaluations(self) -> int:
        """Of the longest trial that there can be."""
        epochs = _most(self.swept[EPOCHS]) if EPOCHS in self.swept else self.pinned[EPOCHS]
        return int(epochs) * int(self.pinned["evaluations_per_epoch"])

    def check_layers(self, base: Base) -> None:
        """Refuse layers that ``base`` does not have, at which a later trial would stop.

        Raises:
            UsageError: Such a layer.
        """
        linear, lora = find_linear(base.model), self.largest().lora
        swept = self.swept.get(TARGETS, Pin(self.pinned.get(TARGETS, ALL_LINEAR)))
        for text in values_of(swept) or ():
            plan_layout(linear, replace(lora, target_modules=_layers(str(text))))

    def epochs_to_share(self) -> tuple[int, ...]:
        """Numbers of epochs that one training can answer for; empty when there are none."""
        found = values_of(self.swept[EPOCHS]) if EPOCHS in self.swept else None
        schedulers = self.swept.get("scheduler", Pin(self.pinned.get("scheduler", "")))
        if found is None or not set(values_of(schedulers) or ()) <= SHAREABLE:
            return ()
        return tuple(sorted(int(value) for value in found))

    @property
    def size(self) -> float:
        """How many points there are; infinity where a range has no end of values."""
        axes = [values_of(value) for value in self.swept.values()]
        return math.prod(math.inf if axis is None else len(axis) for axis in axes)

    def grid(self) -> Iterator[dict[str, Scalar]]:
        """Every combination, ``epochs`` innermost so that neighbours share their training.

        Raises:
            UsageError: A parameter has endlessly many values.
        """
        names = sorted(self.swept, key=lambda name: name == EPOCHS)
        axes = [values_of(self.swept[name]) for name in names]
        for name, axis in zip(names, axes, strict=True):
            if axis is None:
                raise UsageError(
                    "PHI3-U080",
                    f"a grid cannot hold the range {self.swept[name]}",
                    where=name,
                    fix="list its values, as in 1e-4,2e-4,4e-4, or choose another sampler",
                )
        for point in itertools.product(*[axis for axis in axes if axis is not None]):
            yield dict(zip(names, point, strict=True))


def build_space(parameters: Hyperparameters, *, model: str, seed: int) -> Space:
    """Sort what is swept from what is pinned, ``auto`` decided.

    Args:
        parameters: As the person gave them.
        model: Name of the base model, which decides the learning rates of ``auto``.
        seed: Of every trial.

    Raises:
        UsageError: A layer, an optimizer or a loss of a name that is not known.
    """
    swept: dict[str, Interval | Choices] = {}
    pinned: dict[str, Scalar] = {}
    for name in Hyperparameters.model_fields:
        given: Swept = getattr(parameters, name)
        match _rates(model) if isinstance(given, Auto) else given:
            case Pin(value=value):
                pinned[name] = value
            case Interval() | Choices() as several:
                swept[name] = several
    _check_layers(parameters.target_modules, model)
    _check_names(parameters)
    return Space(swept, pinned, seed)


def pinned_spec(parameters: Hyperparameters, *, model: str, seed: int) -> TrialSpec:
    """The spec of a single training; an automatic learning rate takes its range's middle.

    Raises:
        UsageError: A parameter is a range or a list.
    """
    given = parameters.learning_rate
    if isinstance(given, Auto):
        rates = _rates(model)
        middle = math.sqrt(rates.low * rates.high)
        parameters = parameters.model_copy(update={"learning_rate": Pin(middle)})
    space = build_space(parameters, model=model, seed=seed)
    for name, value in space.swept.items():
        raise UsageError(
            "PHI3-U081",
            f"a single training needs one value, not {value}",
            where=name,
            fix=f"give one, as in {name}={_first(value)}, or use sweep",
        )
    return space.spec({})


def flat_params(spec: TrialSpec) -> dict[str, object]:
    """A spec under the names that people use, for MLflow."""
    flat = asdict(spec)
    del flat["shuffle"]  # nobody sets it in a sweep
    weights = flat.pop("class_weights")
    lora = flat.pop("lora")
    modules = lora.pop("target_modules")
    switches = {name: lora.pop(name) for name in ("rslora", "dora")}
    return {
        **flat,
        **{f"lora_{name}": value for name, value in lora.items()},
        **switches,
        "class_weights": "+".join(f"{weight:g}" for weight in weights) or UNWEIGHTED,
        "target_modules": "+".join(modules),
    }


def _rates(model: str) -> Interval:
    if model == DEMO:
        return _DEMO_RATES
    recommended = learning_rates()
    return Interval(recommended.low, recommended.high, log=True)


def _distribution(value: Interval | Choices) -> BaseDistribution:
    if isinstance(value, Choices):
        return CategoricalDistribution(value.values)
    if isinstance(value.low, int) and isinstance(value.high, int):
        return IntDistribution(value.low, value.high, log=value.log)
    return FloatDistribution(value.low, value.high, log=value.log)


def _spec(values: Mapping[str, Any], *, seed: int) -> TrialSpec:
    rest = dict(values)
    lora = LoraSpec(
        r=rest.pop("lora_r"),
        alpha=rest.pop("lora_alpha"),
        dropout=rest.pop("lora_dropout"),
        target_modules=_layers(rest.pop("target_modules")),
        rslora=rest.pop("rslora"),
        dora=rest.pop("dora"),
    )
    weights = parse_weights(str(rest.pop("class_weights", UNWEIGHTED)))
    return TrialSpec(lora=lora, seed=seed, class_weights=weights, **rest)


def _layers(text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


def _check_layers(value: Swept, model: str) -> None:
    """Refuse layers that Phi-3 does not have; what another model has is known once it is loaded."""
    if model != DEMO and find(model) is None:
        return
    for text in values_of(value) or ():
        for layer in _layers(str(text)):
            if layer not in LINEAR_LAYERS and text != ALL_LINEAR:
                raise UsageError(
                    "PHI3-U082",
                    f"no linear layer is called {layer!r}",
                    where="target_modules",
                    fix=f"{ALL_LINEAR}, or some of {'+'.join(LINEAR_LAYERS)}",
                )


def _check_names(parameters: Hyperparameters) -> None:
    """Refuse an optimizer or a loss at which a trial in the midst of the study would stop."""
    for name in values_of(parameters.optimizer) or ():
        find_optimizer(str(name))
    for name in values_of(parameters.loss) or ():
        find_loss(str(name))


def _most(value: Interval | Choices) -> Scalar:
    """The greatest value; of layer lists the longest."""
    if isinstance(value, Interval):
        return value.high
    if all(isinstance(each, str) for each in value.values):
        return max(value.values, key=lambda each: _size(str(each)))
    return max(value.values, key=float)


def _size(text: str) -> tuple[bool, int]:
    layers = _layers(text)
    return ALL_LINEAR in layers, len(layers)


def _first(value: Interval | Choices) -> Scalar:
    return value.values[0] if isinstance(value, Choices) else value.low
