import pytest

from mlflow_phi3.deployment.mlmodel import check_portable
from mlflow_phi3.errors import UsageError


def test_an_adapter_on_a_local_base_is_refused_with_the_mend():
    adapter = {"peft_adaptor": "peft", "local_base_model_path": "/home/me/phi"}
    model = {"flavors": {"python_function": {}, "transformers": adapter}}
    with pytest.raises(UsageError, match=r"PHI3-U712 .*/home/me/phi.*register"):
        check_portable(model, where="models:/chat/1")
    with pytest.raises(UsageError, match="PHI3-U713"):
        check_portable({"flavors": {"keras": {}}}, where="models:/chat/1")
    check_portable({"flavors": {"python_function": {}}}, where="models:/chat/1")
