"""The text of ``mlflow deployments help``: made from the schema, so that it cannot lag behind."""

from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.config.describe import listed
from mlflow_phi3.config.serve import ServeConfig

_WIDTH = 100
_HEAD = """\
Azure AI Foundry (https://ai.azure.com), through Microsoft's azure-ai-ml.

Targets
  azure-foundry                                        the project told by the environment
                                                       (AZURE_SUBSCRIPTION_ID, AZURE_RESOURCE_GROUP,
                                                       AZUREML_WORKSPACE_NAME) or by config.json
  azure-foundry:/<subscription>/<group>/<project>      a project
  azure-foundry:/local                                 the emulator on this machine, started when
                                                       none runs: no account needed

Names
  --name chat                    a service: the endpoint "chat"; new versions come by blue/green
  --endpoint chat --name blue    one deployment of an endpoint, by hand

Config of create, update and delete (-C name=value)
"""


def help_text() -> str:
    """Return the whole text."""
    deploy, serve = (listed(schema, _WIDTH) for schema in (DeployConfig, ServeConfig))
    return f"{_HEAD}\n{deploy}\nConfig of run-local (-C name=value)\n\n{serve}"
