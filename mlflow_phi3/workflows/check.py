"""What cannot be meant, refused before a run is made and data is read."""

from pathlib import Path

from mlflow_phi3.backends.cluster import check_cluster
from mlflow_phi3.config.hyperparameters import UNWEIGHTED
from mlflow_phi3.config.register import RegisterConfig
from mlflow_phi3.config.swept import Pin, values_of
from mlflow_phi3.config.words import SweepWord, TrainWord
from mlflow_phi3.evaluation.golden import load_golden
from mlflow_phi3.modeling.hardware import choose_device
from mlflow_phi3.modeling.quantization import check_quantization
from mlflow_phi3.sweep.pruners import build_pruner
from mlflow_phi3.sweep.samplers import build_sampler
from mlflow_phi3.sweep.space import build_space, pinned_spec
from mlflow_phi3.sweep.storage import check_storage
from mlflow_phi3.tracking.registry import check_name
from mlflow_phi3.training.optimizer import check_installed


def check_search(config: SweepWord) -> None:
    """Refuse a device, a space, a sampler, a pruner, a storage or a backend that cannot be.

    Raises:
        UsageError: It cannot be; the message names the parameter.
        PreflightError: A library that it needs is not installed, or no cluster answers.
    """
    choose_device(config.device)
    if config.backend == "ray":
        check_cluster(config.ray_address)
    if config.storage:
        check_storage(config.storage)
    space = build_space(config, model=config.model, seed=config.seed)
    if config.sampler == "grid":
        next(space.grid())
    build_sampler(
        config.sampler, config.sampler_options, seed=0, number=0, n_trials=config.n_trials
    )
    build_pruner(config.pruner, config.pruner_options, longest=space.most_evaluations)
    _check_packages(config)


def check_training(config: TrainWord) -> None:
    """Refuse a device or package that is not there, and what no single training can be made of.

    Raises:
        UsageError: Such a device or package, a range, a list, or a layer that is none.
    """
    choose_device(config.device)
    # Balanced weights are counted in the data, which is not read yet.
    unweighted = config.model_copy(update={"class_weights": Pin(UNWEIGHTED)})
    pinned_spec(unweighted, model=config.model, seed=config.seed)
    _check_packages(config)


def check_registration(config: RegisterConfig) -> None:
    """Refuse a name that no registered model can have, and golden queries that are none.

    Raises:
        UsageError: Such a name.
        DataError: The golden queries cannot be read, or there are none.
    """
    if config.registered_model:
        check_name(config.registered_model, where="registered_model")
    if config.golden:
        load_golden(Path(config.golden))


def _check_packages(config: SweepWord | TrainWord) -> None:
    """Refuse a quantization, or one of several optimizers, whose package is not installed."""
    check_quantization(config.quantization)
    for name in values_of(config.optimizer) or ():
        check_installed(str(name))
