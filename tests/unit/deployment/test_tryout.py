import pytest

from mlflow_phi3.azure.target import Target
from mlflow_phi3.deployment.tryout import make_samples

ASKED = {"messages": [{"role": "user", "content": "Is it on?"}]}


@pytest.mark.parametrize("kind", ["serverless", "managed"])
def test_only_what_asks_the_emulator_trusts_its_certificate(kind):
    target = Target("s", "g", "p")
    azure = make_samples("e", kind, "https://e.example/score", target, ASKED, portal=True)
    assert "--cacert" not in azure.curl
    assert azure.key.startswith("az ml ")
    assert azure.before == ""
    local = make_samples("e", kind, "https://localhost:1/score", target, ASKED, portal=False)
    assert local.curl.startswith('curl --cacert "$REQUESTS_CA_BUNDLE" https://localhost:1/score ')
    assert "get_keys('e').primary_key" in local.key
    # What is pasted leaves the shell at the project that it was about.
    assert local.before.splitlines() == [
        'eval "$(mlflow-phi3 emulator env)"',
        "export AZURE_SUBSCRIPTION_ID=s",
        "export AZURE_RESOURCE_GROUP=g",
        "export AZUREML_WORKSPACE_NAME=p",
    ]
