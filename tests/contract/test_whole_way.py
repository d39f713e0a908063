"""From a model to an endpoint under load, to its next version, back, and to nothing."""

import datetime as dt
import json
import threading

import mlflow
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from mlflow_phi3.cli.deployment import app as promotion
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.promote import promote, rollback
from mlflow_phi3.emulator.router import WORKSPACE
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION
from mlflow_phi3.emulator.settings import WORKSPACE as PROJECT
from mlflow_phi3.processes import is_alive

HOME = WORKSPACE.format(subscription=SUBSCRIPTION, group=GROUP, workspace=PROJECT)


def text(answer):
    return answer["choices"][0]["message"]["content"]


def scoring_processes(emulator):
    """Those that the fork server has forked."""
    children = psutil.Process(emulator.running.pid).children()
    (server,) = [child for child in children if "fork_server.py" in " ".join(child.cmdline())]
    return [child for child in server.children() if is_alive(child.pid)]


class Load(threading.Thread):
    """A client that asks without pause."""

    def __init__(self, client, inputs):
        super().__init__(daemon=True)
        self._client, self._inputs = client, inputs
        self._stop_asking = threading.Event()
        self.answers, self.errors = [], []

    def run(self):
        while not self._stop_asking.is_set():
            try:
                self.answers.append(text(self._client.predict("chat", self._inputs)))
            except MlflowException as error:
                self.errors.append(error)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stop_asking.set()
        self.join(60)


def check_secrets(emulator, key, said):
    """No key or secret is printed, shown, tagged or written down; no poller draws dots."""
    secrets = (emulator.environment["AZURE_CLIENT_SECRET"], emulator.settings.secret("storage"))
    text = json.dumps([*said, emulator.journal()])
    assert not [secret for secret in (*secrets, key) if secret in text]
    assert "...." not in text


@pytest.fixture
def versions(models, _clean):
    """A registered model whose version 1 is the champion, and its version 2."""
    registry = MlflowClient()
    registry.create_registered_model("chat")
    for name in ("one", "two"):
        registry.create_model_version("chat", models[name])
    registry.set_registered_model_alias("chat", "champion", "1")
    yield registry
    registry.delete_registered_model("chat")


def test_create_predict_blue_green_rollback_delete(
    client, emulator, versions, ask, capsys, check_published
):
    made = client.create_deployment("chat", "models:/chat@champion")
    assert (made["name"], made["flavor"], made["state"]) == ("chat", "python_function", "Succeeded")
    assert made["traffic"] == {"blue": 100}
    assert text(client.predict("chat", ask)) == "one: hello"
    (part,) = client.predict_stream("chat", ask)
    assert part["choices"][0]["delta"]["content"] == "one: hello"
    # Run again, as after a cut: nothing is done, nothing is sent.
    emulator.http.delete("/emulator/journal")
    client.create_deployment("chat", "models:/chat/1")
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]
    with pytest.raises(MlflowException, match="PHI3-U738"):
        client.create_deployment("chat", "models:/chat/2")

    with Load(client, ask) as load:
        client.update_deployment("chat", "models:/chat/2")
        deployer = Deployer("azure-foundry:/local", told=print)
        back = rollback(
            deployer.managed.service(60),
            deployer.registry,
            "chat",
            target="azure-foundry:/local",
            told=print,
        )
        assert back.after == "blue=100"
        assert versions.get_model_version_by_alias("chat", "champion").version == 1
        promote(deployer.managed.service(60), deployer.registry, "chat", check=print, told=print)
        assert versions.get_model_version_by_alias("chat", "champion").version == 2
        assert versions.get_model_version_by_alias("chat", "previous").version == 1
        client.delete_deployment("blue", endpoint="chat")
    assert load.errors == []
    assert {"one: hello", "two: hello"} == set(load.answers)

    tags = {n: versions.get_model_version("chat", str(n)).tags for n in (1, 2)}
    assert tags[1]["azure.state"] == "deleted"
    assert tags[2]["azure.state"] == "deployed"
    assert (tags[2]["azure.endpoint"], tags[2]["azure.deployment"]) == ("chat", "green")
    shown = client.get_deployment("chat")
    assert shown["traffic"] == {"green": 100}
    assert set(shown["deployments"]) == {"green"}
    with pytest.raises(MlflowException, match="PHI3-U715"):
        client.delete_deployment("green", endpoint="chat")
    assert len(scoring_processes(emulator)) == 1

    check_published(emulator.changes())
    key = deployer.managed.service(60).get_key("chat")
    check_secrets(emulator, key, [*capsys.readouterr(), shown, client.list_deployments(), tags])

    client.delete_deployment("chat")
    client.delete_deployment("chat")
    assert client.list_deployments() == []
    assert scoring_processes(emulator) == []


def certified(registry, models, name, answers):
    """Register a model with the certificate that ``answers`` to the fixed prompts have."""
    from mlflow_phi3.serving.certificate import ARTIFACT, FIXED_PROMPTS, certify, compare_stage

    told = [f"{answers}: {prompt[-1].content}" for prompt in FIXED_PROMPTS]
    certificate = certify("chat", told, [compare_stage("pyfunc", told, told)], max_tokens=8)
    run = registry.create_run(registry.create_experiment(f"certified-{name}"))
    registry.log_dict(run.info.run_id, certificate.to_json(), ARTIFACT)
    made = registry.create_model_version("certified", models[name], run_id=run.info.run_id)
    return f"models:/certified/{made.version}", run.info.run_id


def test_a_model_that_is_not_the_certified_one_gets_no_traffic(client, models, ask, capsys):
    registry = MlflowClient()
    registry.create_registered_model("certified")
    good, run = certified(registry, models, "one", "one")
    odd, odd_run = certified(registry, models, "two", "one")
    client.create_deployment("certified", good)
    assert "answers are those of the model that was trained" in capsys.readouterr().err
    kept = json.loads(mlflow.artifacts.load_text(f"runs:/{run}/deploy/certificate.json"))
    assert [stage["name"] for stage in kept["stages"]] == ["pyfunc", "endpoint"]
    assert kept["holds"]
    with pytest.raises(MlflowException, match=r"PHI3-G071 .*certified/green.*Taken back"):
        client.update_deployment("certified", odd)
    shown = client.get_deployment("certified")
    assert (shown["traffic"], set(shown["deployments"])) == ({"blue": 100}, {"blue"})
    assert text(client.predict("certified", ask)) == "one: hello"
    kept = json.loads(mlflow.artifacts.load_text(f"runs:/{odd_run}/deploy/certificate.json"))
    assert not kept["holds"]

    # Nor by promote, where it was made without being asked.
    client.create_deployment("green", odd, endpoint="certified", config={"verify": "false"})
    command = ["promote", "certified", "-t", "azure-foundry:/local"]
    refused = CliRunner().invoke(promotion, command)
    assert refused.exit_code != 0
    assert "PHI3-G071" in str(refused.exception)
    assert client.get_deployment("certified")["traffic"] == {"blue": 100}
    told = CliRunner().invoke(promotion, [*command, "--no-parity"])
    assert "traffic: blue=100 -> green=100" in told.output
    client.delete_deployment("certified")


def test_settings_are_kept_and_changed_without_a_model(client, models):
    client.create_deployment("keep", models["one"], config={"instance_count": "3"})
    client.update_deployment("keep", config={"ttl_hours": "1"})
    shown = client.get_deployment("keep")
    assert shown["deployments"]["blue"]["instance_count"] == 3
    deployer = Deployer("azure-foundry:/local", told=lambda _line: None)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    assert deployer.reap(dt.datetime.now(dt.UTC), dry_run=False, timeout_s=60) == []
    assert deployer.reap(later, dry_run=True, timeout_s=60) == ["keep"]
    assert deployer.reap(later, dry_run=False, timeout_s=60) == ["keep"]
    assert client.list_endpoints() == []


def test_a_model_that_cannot_load_leaves_nothing_and_says_why(client, models, emulator):
    with pytest.raises(MlflowException, match="no weights") as raised:
        client.create_deployment("broken", models["broken"])
    assert "Taken back" in str(raised.value)
    assert client.list_endpoints() == []
    assert scoring_processes(emulator) == []


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(client, models, emulator, capsys):
    client.create_deployment("dry", models["one"], config={"dry_run": "true", "usd_per_hour": "2"})
    said = capsys.readouterr().err
    assert '"instanceType": "Standard_DS3_v2"' in said
    assert "1 x Standard_DS3_v2 at 2 USD (as given): 2.00 USD an hour" in said
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]


def test_golden_queries_are_read_before_anything_is_sent(client, models, emulator, tmp_path):
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"messages": []}\n')
    emulator.http.delete("/emulator/journal")
    for asked in ({}, {"dry_run": "true"}):
        with pytest.raises(MlflowException, match=r"PHI3-D\d+ .*golden.jsonl"):
            client.create_deployment(
                "golden", models["one"], config={"golden": str(golden), **asked}
            )
    assert emulator.changes() == []


def test_settings_with_which_it_does_not_answer_are_put_back(client, models, tmp_path):
    client.create_deployment("settled", models["one"])
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"messages": [{"role": "user", "content": "hi"}], "contains": ["two"]}\n')
    for changed in ({"instance_count": "2"}, {}):
        with pytest.raises(MlflowException, match="PHI3-G"):
            client.update_deployment("settled", config={"golden": str(golden), **changed})
    shown = client.get_deployment("settled")
    assert shown["deployments"]["blue"]["instance_count"] == 1
    assert shown["traffic"] == {"blue": 100}
    client.delete_deployment("settled")


def test_a_deployment_that_an_earlier_command_has_left_is_still_checked(client, models, tmp_path):
    client.create_deployment("resumed", models["one"])
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"messages": [{"role": "user", "content": "hi"}], "contains": ["one"]}\n')
    green = {"name": "green", "model_uri": models["two"], "endpoint": "resumed"}
    client.create_deployment(**green, config={"synchronous": "false"})
    with pytest.raises(MlflowException, match=r"PHI3-G.*Deployment resumed/green stays, and is"):
        client.create_deployment(**green, config={"golden": str(golden)})
    assert client.get_deployment("resumed")["traffic"] == {"blue": 100}
    with pytest.raises(MlflowException, match=r"PHI3-U736 deployment gren: .* blue, green"):
        client.update_deployment("gren", models["two"], endpoint="resumed")
    client.update_deployment("resumed", config={"keep_previous": "false"})
    assert set(client.get_deployment("resumed")["deployments"]) == {"blue"}
    client.delete_deployment("resumed")


def test_what_cannot_be_meant_is_refused(client, models):
    for call in (
        lambda: client.create_deployment("chat", models["one"], config={"trafic": "5"}),
        lambda: client.create_deployment("a", models["one"]),
        lambda: client.create_deployment("chat", "models:/nobody@champion"),
        lambda: client.create_deployment("chat", models["one"], flavor="sklearn"),
        lambda: client.create_deployment("chat", models["one"], config={"content_safety": "false"}),
        lambda: client.update_deployment("chat", models["one"]),
        lambda: client.get_deployment("nobody"),
        lambda: client.explain("chat"),
    ):
        with pytest.raises(MlflowException, match=r"PHI3-U\d+.*Fix: "):
            call()


def test_endpoints_by_hand(client, capsys):
    dry = {"dry_run": "true", "content_safety_connection": "safety"}
    assert client.create_endpoint("bare", dry) == {"name": "bare (dry run)"}
    shown = capsys.readouterr().err
    assert f"PUT {HOME}/onlineEndpoints/bare" in shown
    assert '"enforce_access_to_default_secret_stores": "enabled"' in shown
    assert client.list_endpoints() == []
    assert client.create_endpoint("bare")["traffic"] == {}
    client.create_endpoint("bare")
    client.create_endpoint("bare", {"dry_run": "true"})
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(MlflowException, match="PHI3-U745"):
        client.update_endpoint("bare", {"traffic": "blue=100"})
    with pytest.raises(MlflowException, match=r"PHI3-U742 .*traffic"):
        client.update_endpoint("bare", {"trafic": "blue=100"})
    assert [e["name"] for e in client.list_endpoints()] == ["bare"]
    client.delete_endpoint("bare")
    assert client.list_endpoints() == []


def test_a_key_that_was_changed_is_fetched_again(client, models, ask, emulator):
    client.create_deployment("rekeyed", models["one"])
    client.predict("rekeyed", ask)
    answer = emulator.http.post(
        f"{HOME}/onlineEndpoints/rekeyed/regenerateKeys",
        json={"keyType": "Primary"},
        params={"api-version": "2024-10-01-preview"},
        headers={"Authorization": f"Bearer {emulator.token()}"},
    )
    assert answer.status_code == 202
    assert client.predict("rekeyed", ask)["choices"][0]["message"]["content"] == "one: hello"
    client.delete_deployment("rekeyed")
