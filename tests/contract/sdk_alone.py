"""A program of somebody who has azure-ai-ml and nothing of ours.

`python sdk_alone.py MODEL DATA REQUEST OUT`: settings come from the environment alone; what it saw
is written to OUT, for the SDK draws on standard output.
"""

import json
import os
import sys
from pathlib import Path

from azure.ai.ml import MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import Data, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.ai.ml.finetuning import FineTuningTaskType, create_finetuning_job
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential

TUNABLE = "azureml://registries/azureml/models/Phi-4-mini-instruct/versions/1"


def main(model_folder, data_file, request_file, out):
    ml = MLClient(
        DefaultAzureCredential(disable_instance_discovery=True),
        os.environ["AZURE_SUBSCRIPTION_ID"],
        os.environ["AZURE_RESOURCE_GROUP"],
        os.environ["AZUREML_WORKSPACE_NAME"],
        enable_telemetry=False,
        show_progress=False,
    )
    seen = {"region": ml.workspaces.get(os.environ["AZUREML_WORKSPACE_NAME"]).location}
    model = ml.models.create_or_update(
        Model(name="alone", version="1", path=model_folder, type=AssetTypes.MLFLOW_MODEL)
    )
    endpoint = ml.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name="alone", auth_mode="key", tags={"of": "nobody"})
    ).result()
    deployed = ml.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="blue",
            endpoint_name="alone",
            model=model.id,
            instance_type="Standard_DS3_v2",
            instance_count=1,
        )
    ).result()
    seen["deployment"] = deployed.provisioning_state
    endpoint = ml.online_endpoints.get("alone")  # get, change, put: what people do
    endpoint.traffic = {"blue": 100}
    ml.online_endpoints.begin_create_or_update(endpoint).result()
    seen["answer"] = ml.online_endpoints.invoke("alone", request_file=request_file)
    seen["log"] = bool(ml.online_deployments.get_logs("blue", "alone", 20))
    seen["key"] = bool(ml.online_endpoints.get_keys("alone").primary_key)
    seen.update(tune(ml, data_file))
    try:
        ml.online_deployments.begin_delete("blue", "alone").result()
    except HttpResponseError as refused:
        seen["refused"] = refused.status_code
    ml.online_endpoints.begin_delete("alone").result()
    try:
        ml.online_endpoints.get("alone")
    except ResourceNotFoundError as gone:
        seen["gone"] = gone.status_code
    Path(out).write_text(json.dumps(seen))


def tune(ml, data_file):
    """Submit a job as Microsoft's samples do, and cancel it; numbers are sent as numbers."""
    data = ml.data.create_or_update(
        Data(name="alone", version="1", path=data_file, type=AssetTypes.URI_FILE)
    )
    seen = {}
    for rate in (0.00002, "0.00002"):
        job = create_finetuning_job(
            model=TUNABLE,
            task=FineTuningTaskType.CHAT_COMPLETION,
            training_data=data.path,
            validation_data=data.path,
            hyperparameters={"num_train_epochs": "1", "learning_rate": rate},
            output_model_name_prefix="alone",
            name="alone-job",
        )
        try:
            made = ml.jobs.create_or_update(job)
        except HttpResponseError as refused:
            seen["number"] = refused.status_code
    ml.jobs.begin_cancel(made.name).result()
    return {**seen, "job": made.name, "kind": type(ml.jobs.get(made.name)).__name__}


if __name__ == "__main__":
    main(*sys.argv[1:])
