"""The text of ``mlflow deployments help``: made from the schema, so that it cannot lag behind."""

import textwrap

from mlflow_phi3.config.deploy import DeployConfig

_WIDTH = 100
_INDENT = " " * 6
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

Config (-C name=value)
"""


def help_text() -> str:
    """Return the whole text."""
    lines = [_HEAD]
    for name, field in DeployConfig.model_fields.items():
        value = str(field.default).lower() if isinstance(field.default, bool) else field.default
        default = "" if value in (None, "") else f" (default {value})"
        lines.append(f"  {name}{default}")
        lines.append(
            textwrap.fill(
                " ".join((field.description or "").split()),
                _WIDTH,
                initial_indent=_INDENT,
                subsequent_indent=_INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines) + "\n"
