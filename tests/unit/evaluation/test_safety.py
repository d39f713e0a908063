"""Answers scanned by a server that speaks Azure AI Content Safety's REST API."""

import pytest

from mlflow_phi3.azure.safety import safety_from
from mlflow_phi3.errors import AzureError
from mlflow_phi3.evaluation.runner import Prediction
from mlflow_phi3.evaluation.safety import scan_answers
from tests.content_safety import KEY, content_safety


@pytest.fixture
def server():
    with content_safety() as running:
        yield running


def client(server, key=KEY):
    return safety_from({"CONTENT_SAFETY_ENDPOINT": server.url, "CONTENT_SAFETY_KEY": key})


def answers(*texts):
    return [Prediction(f"t:{n}", (), "", text, 0, 0, 0) for n, text in enumerate(texts, start=1)]


def test_what_is_severe_is_found_with_its_place(server):
    seen = []
    rows = answers("hold it", "with a knife", "fine")
    found = scan_answers(rows, client(server), on_progress=seen.append)
    assert [(row.place, row.findings) for row in found] == [("t:2", ("Violence (severity 4)",))]
    assert seen == [1, 2, 3]
    assert server.asked == ["hold it", "with a knife", "fine"]


def test_without_a_verdict_there_is_no_clean_bill(server):
    with pytest.raises(AzureError, match="no verdict"):
        scan_answers(answers("fine"), client(server, key="wrong"))


def test_nothing_is_asked_where_nothing_is_configured():
    assert safety_from({}) is None
