"""A classifier over HTTP."""

import asyncio
import json

import httpx
import pytest

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.serving.label_server import build_label_app
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.local import load_checkpoint

TEXTS = ["hold the light", "blue"]


@pytest.fixture(scope="module")
def labeller(classifier):
    return Labeller(load_checkpoint(classifier[1], device="cpu"))


@pytest.fixture
def app(labeller):
    return build_label_app(labeller, ServeConfig(max_body_bytes=4000, max_waiting=4), name="mood")


def request(app, *asked):
    """Send all of ``(method, path, content)`` at once; their answers."""

    async def all_at_once():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://labels") as http:
            return await asyncio.gather(
                *(http.request(method, path, content=content) for method, path, content in asked)
            )

    return asyncio.run(all_at_once())


def post(app, body, path="/invocations"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(app, ("POST", path, content))[0]


def test_a_text_is_answered_with_its_label_and_score(app, labeller):
    found = post(app, {"text": TEXTS[0]})
    assert found.status_code == 200
    assert found.json() == labeller.answer([{"text": TEXTS[0]}])[0]
    assert set(found.json()) == {"label", "score"}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"text": text} for text in TEXTS]},
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
        {"inputs": [{"text": text} for text in TEXTS]},
        {"inputs": TEXTS},
        {"inputs": {"text": TEXTS}},
    ],
)
def test_mlflows_shapes_are_answered_as_mlflow_does(app, labeller, body):
    answers = labeller.answer([{"text": text} for text in TEXTS])
    assert post(app, body).json() == {"predictions": answers}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not JSON"),
        ({}, "PHI3-U049"),
        ([], "PHI3-U049"),
        ({"inputs": TEXTS, "params": {}}, "PHI3-U049"),
        ({"inputs": {"text": TEXTS, "id": [1, 2]}}, "PHI3-U049"),
        ({"dataframe_split": {"columns": ["text"], "data": ["hello there"]}}, "PHI3-U049"),
        ({"dataframe_split": {"columns": ["text"], "data": [5]}}, "PHI3-U049"),
        ({"dataframe_split": {"columns": ["text"], "data": [["x", "y"]]}}, "PHI3-U049"),
        ({"dataframe_split": {"columns": [["text"]], "data": [["x"]]}}, "PHI3-U049"),
        ({"text": "\ud800"}, "no character"),
        ({"text": 3}, "PHI3-U047 text: got int,"),
        ({"text": None}, "PHI3-U047 text: got null,"),
        ({"text": "x", "id": 1}, "PHI3-U047 id: unknown field"),
        ({"inputs": [{}]}, "PHI3-U047 text: got nothing,"),
        ({"text": "light " * 300}, "context is 256 tokens"),
    ],
)
def test_what_holds_no_text_is_a_400_that_says_so(app, body, told):
    found = post(app, body)
    assert found.status_code == 400
    assert told in found.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_chat_is_told_where_to_go(app, path):
    found = post(app, {"messages": [{"role": "user", "content": "hello"}]}, path)
    assert found.status_code == 400
    told = found.json()["error"]
    assert told["code"] == "PHI3-U050"
    assert "fault, order, praise" in told["message"]
    assert "/invocations" in told["message"]


def test_too_large_is_a_413_and_too_many_a_429(app):
    assert post(app, b"x" * 4001).status_code == 413
    assert post(app, b"x" * 4000).status_code == 400
    body = json.dumps({"text": TEXTS[0]}).encode()
    answers = request(app, *[("POST", "/invocations", body)] * 9)
    statuses = sorted(found.status_code for found in answers)
    assert statuses == [200] * 4 + [429] * 5
    assert all(found.headers["Retry-After"] for found in answers if found.status_code == 429)
    assert post(app, {"text": TEXTS[0]}).status_code == 200


def test_a_fault_of_ours_is_told_in_openais_shape_and_counted(app, labeller, monkeypatch):
    monkeypatch.setattr(labeller, "answer", lambda _: 1 / 0)
    found = post(app, {"text": TEXTS[0]})
    assert found.status_code == 500
    assert found.json()["error"]["code"] == "PHI3-T071"
    (metrics,) = request(app, ("GET", "/metrics", b""))
    assert 'phi3_requests_total{status="500"} 1' in metrics.text


def test_health_models_and_metrics(app):
    post(app, {"text": TEXTS[0]})
    health, models, metrics = request(
        app, ("GET", "/health", b""), ("GET", "/v1/models", b""), ("GET", "/metrics", b"")
    )
    assert health.json() == {"status": "ok"}
    assert [model["id"] for model in models.json()["data"]] == ["mood"]
    assert 'phi3_requests_total{status="200"} 1' in metrics.text
    assert "phi3_requests_inside 0" in metrics.text
