"""What is wanted of a managed deployment, from config and model; values in, values out."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_phi3.azure.assets import ModelAsset, short_name
from mlflow_phi3.azure.target import Target
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.plan import Current, Wanted
from mlflow_phi3.deployment.reap import expiry
from mlflow_phi3.deployment.safety import safety_tags, safety_variables
from mlflow_phi3.deployment.traffic import to_text
from mlflow_phi3.errors import UsageError
from mlflow_phi3.evaluation.golden import GoldenQuery, load_golden
from mlflow_phi3.files import folder_bytes
from mlflow_phi3.tracking.model_files import OpenedModel
from mlflow_phi3.tracking.tags import (
    ASSET_TAG,
    DEPLOYMENT_TAG,
    EXPIRES_TAG,
    MODEL_TAG,
    VERSION_TAG,
    place_tags,
)

_SMALL_BYTES = 2 * 10**9
_SMALL, _LARGE = "Standard_DS3_v2", "Standard_NC24ads_A100_v4"


def to_wanted(
    names: Names,
    config: DeployConfig,
    target: Target,
    model: OpenedModel,
    asset: ModelAsset,
) -> Wanted:
    """Return what a caller's config means for a model."""
    endpoint_tags = {}
    if config.ttl_hours is not None:
        endpoint_tags[EXPIRES_TAG] = expiry(dt.datetime.now(dt.UTC), config.ttl_hours)
    asked = _asked(names, config)
    return replace(
        asked,
        model=asset.id_in(target),
        default_instance_type=_SMALL if folder_bytes(model.folder) < _SMALL_BYTES else _LARGE,
        tags={MODEL_TAG: model.name, VERSION_TAG: model.version, **asked.tags},
        endpoint_tags=endpoint_tags,
        keep_previous=config.keep_previous,
    )


def to_changed(names: Names, config: DeployConfig, current: Current) -> Wanted:
    """Return what a caller's config means for what is there, where no model is named.

    Raises:
        UsageError: There is nothing to change, or several deployments have a share of the traffic
            and none of them is named.
    """
    known = current.find(names.deployment) if names.deployment else current.active()
    if known is None:
        raise _nothing(f"deployment {names.given}", current.names if names.deployment else ())
    if config.traffic is not None and not names.deployment and len(current.traffic) > 1:
        raise UsageError(
            "PHI3-U719",
            f"of which deployment? They have {to_text(current.traffic)}",
            where=f"traffic={config.traffic}",
            fix=f"name the version by --model-uri, or one by --endpoint {names.endpoint} --name; "
            f"mlflow-phi3 promote {names.endpoint} gives the new one all of it",
        )
    raised = (config.traffic or 0) > current.traffic.get(known.name, 0)
    verify = config.verify and (raised or bool(config.golden))
    return replace(_asked(names, config), deployment=known.name, verify=verify)


def check_managed(current: Current, wanted: Wanted, *, new: bool) -> None:
    """Refuse ``create`` over what serves another model, and ``update`` of nothing."""
    name, there = wanted.deployment, current.names
    meant = {name} if name else current.traffic
    running = [found.model for found in current.deployments if found.name in meant]
    check_purpose(
        f"deployment {name or wanted.endpoint}",
        running,
        wanted.model,
        exists=name in there if name else bool(there),
        new=new,
        there=there,
    )


def check_purpose(
    where: str,
    running: Sequence[str],
    model: str,
    *,
    exists: bool,
    new: bool,
    there: Sequence[str] = (),
) -> None:
    """Refuse ``create`` over another model, and ``update`` of nothing.

    Args:
        where: What is meant, as an error names it.
        running: Resource ids of the models that it serves.
        model: Resource id of the one that is wanted.
        exists: Whether there is something to update.
        new: True for ``create``.
        there: Names of the deployments, of which another may have been meant.
    """
    other = next((one for one in running if one.lower() != model.lower()), None)
    if new and other is not None:
        raise UsageError(
            "PHI3-U738",
            f"it exists and serves {short_name(other)}",
            where=where,
            fix="the same command with update instead of create takes it to another model",
        )
    if not new and not exists:
        raise _nothing(where, there)


def golden_queries(config: DeployConfig, example: Any) -> tuple[GoldenQuery, ...]:
    """Return what a new deployment is asked: a file's queries, or the model's input example."""
    if config.golden:
        return load_golden(Path(config.golden))
    first = example[0] if isinstance(example, list) and example else example
    return (GoldenQuery(first),) if isinstance(first, Mapping) else ()


def variables_of(config: DeployConfig) -> dict[str, str] | None:
    """Return the variables of the scoring process, None to keep what it has.

    Raises:
        UsageError: Not NAME=value.
    """
    if not config.environment_variables:
        return None
    found: dict[str, str] = {}
    for part in filter(None, config.environment_variables.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(
                "PHI3-U739",
                f"{part!r} is not NAME=value",
                where="environment_variables",
                fix="NAME=value,OTHER=value",
            )
        found[name.strip()] = value
    return found


def model_tags(model: OpenedModel) -> dict[str, str]:
    """Return the tags by which an Azure model leads back to MLflow."""
    tags = {MODEL_TAG: model.name, VERSION_TAG: model.version, "mlflow.run_id": model.run_id}
    return {name: value for name, value in tags.items() if value}


def deployed_tags(
    found: Mapping[str, Any], target: Target, asset: ModelAsset, wanted: Wanted
) -> dict[str, str]:
    """Return the tags of a version by which MLflow leads to where it runs."""
    own = {DEPLOYMENT_TAG: str(found["deployment"]), ASSET_TAG: asset.id_in(target)}
    tags = place_tags(found, target.path) | own
    if EXPIRES_TAG in wanted.endpoint_tags:
        tags[EXPIRES_TAG] = wanted.endpoint_tags[EXPIRES_TAG]
    return tags


def _asked(names: Names, config: DeployConfig) -> Wanted:
    """Return what a caller's config says by itself, whatever the model and what is there."""
    return Wanted(
        endpoint=names.endpoint,
        deployment=names.deployment,
        instance_type=config.instance_type or None,
        instance_count=config.instance_count,
        traffic=config.traffic,
        tags=safety_tags(config),
        variables=variables_of(config),
        safety=safety_variables(config),
        request_timeout_s=config.request_timeout_s,
        collect_data=config.collect_data,
        verify=config.verify,
    )


def _nothing(where: str, there: Sequence[str]) -> UsageError:
    beside = f"; there is {', '.join(there)}" if there else ""
    fix = "the same command with create instead of update, and --model-uri"
    return UsageError("PHI3-U736", f"there is nothing to update{beside}", where=where, fix=fix)
