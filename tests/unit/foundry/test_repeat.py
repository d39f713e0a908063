import yaml

from mlflow_phi3.foundry.repeat import repeat_yaml
from mlflow_phi3.training.spec import TrialSpec

SPEC = TrialSpec(learning_rate=2e-5, epochs=2, per_device_batch_size=4, batch_size_multiplier=2)


def test_a_local_trial_can_be_read_as_a_job_of_foundry():
    text = repeat_yaml(SPEC, "microsoft/Phi-4-mini-instruct")

    job = yaml.safe_load(text)
    assert job["type"] == "finetuning"
    assert job["hyperparameters"] == {
        "num_train_epochs": "2",
        "learning_rate": "0.00002",
        "per_device_train_batch_size": "8",
    }
    assert job["model"]["path"].endswith("/models/Phi-4-mini-instruct/versions/1")
    assert job["training_data"]["path"] == "./train.jsonl"
    assert "# Foundry decides by itself: lora_r" in text


def test_the_sdk_reads_it(tmp_path):
    from azure.ai.ml import load_job

    path = tmp_path / "job.yaml"
    path.write_text(repeat_yaml(SPEC, "demo"), encoding="utf-8")

    job = load_job(path)

    assert job.hyperparameters["num_train_epochs"] == "2"
    assert job.outputs["registered_model"].name == "phi3-chat"


def test_what_stands_for_a_model_that_is_not_tuned_is_said():
    assert "Phi-4-mini-instruct stands here for demo" in repeat_yaml(SPEC, "demo")
    retired = repeat_yaml(SPEC, "microsoft/Phi-3-mini-4k-instruct")
    assert "was retired in Foundry on 2025-08-30; its replacement stands here" in retired
    assert yaml.safe_load(retired)["model"]["path"].endswith("Phi-4-mini-instruct/versions/1")


def test_a_trial_that_foundry_cannot_repeat_says_why():
    far = TrialSpec(learning_rate=2e-5, epochs=40)
    assert repeat_yaml(far, "demo").startswith("# Foundry cannot repeat this trial: PHI3-U771")
