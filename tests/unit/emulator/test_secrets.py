import pytest

from mlflow_phi3.emulator.endpoints.secrets import ENFORCED, inject
from mlflow_phi3.emulator.journal import Entry, Journal
from mlflow_phi3.emulator.operation import OperationFailed

READS = {"properties": {"properties": {ENFORCED: "enabled"}}}
SAFETY = {"target": "https://safety", "credentials": {"key": "k"}, "metadata": {"kind": "text"}}


def connections(name):
    return SAFETY if name == "safety" else None


def reference(part):
    return f"${{{{azureml://connections/{part}}}}}"


def test_references_become_values_and_other_variables_stay():
    variables = {
        "PLAIN": "x ${y}",
        "WHERE": reference("safety/target"),
        "KEY": reference("safety/credentials/key"),
        "KIND": reference("safety/metadata/kind"),
    }
    assert inject(variables, READS, connections) == {
        "PLAIN": "x ${y}",
        "WHERE": "https://safety",
        "KEY": "k",
        "KIND": "text",
    }


@pytest.mark.parametrize(
    ("part", "endpoint", "why"),
    [
        ("safety/target", {"properties": {}}, "lacks enforce_access"),
        ("nowhere/target", READS, "no secret at"),
        ("safety/credentials/other", READS, "no secret at"),
        ("safety/credentials", READS, "no secret at"),
        ("safety/target/deeper", READS, "no secret at"),
    ],
)
def test_what_cannot_be_read_fails_the_deployment(part, endpoint, why):
    with pytest.raises(OperationFailed, match=why):
        inject({"KEY": reference(part)}, endpoint, connections)


def test_the_journal_keeps_the_shape_of_credentials_and_not_their_values():
    journal = Journal()
    body = {"properties": {"credentials": {"key": "k", "more": [{"a": 1}]}, "target": "t"}}
    journal.note(Entry("PUT", "/c", "v", body, 200))
    (route,) = [r for r in journal.routes() if r.method == "GET"]
    (entry,) = route.handler(None).body
    told = {"key": "[secret]", "more": [{"a": "[secret]"}]}
    assert entry["body"] == {"properties": {"credentials": told, "target": "t"}}
    assert body["properties"]["credentials"]["key"] == "k"
