"""Answers that are none: a gateway's page, a connection that breaks, nobody there."""

import datetime as dt
import http.server
import json
import ssl
import threading
import time
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest
from tenacity import Future

from mlflow_phi3.azure.scoring import ScoringClient, _Busy, _wait_s
from mlflow_phi3.errors import AzureError, UsageError

OK = httpx.Response(200, text="{}")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def answering():
    """Start a server that answers with these bytes, of which it promises so many more."""
    servers = []

    def start(body, *, promised=0, status=200, by_token=False, total_s=10.0, **headers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                start.asked += 1
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body) + promised))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        uri = f"http://127.0.0.1:{server.server_port}/score"
        return client(uri, by_token=by_token, total_s=total_s)

    clients = []

    def client(uri, *, by_token=False, total_s=10.0):
        trust = ssl.create_default_context()
        clients.append(ScoringClient(uri, "key", trust, by_token=by_token, total_s=total_s))
        return clients[-1]

    start.client, start.asked = client, 0
    yield start
    for one in clients:
        one.close()
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answer_that_is_not_json_is_told_as_such(answering):
    with pytest.raises(AzureError, match=r"PHI3-A712 http://.*/score: .*<html>gateway"):
        answering(b"<html>gateway</html>").ask({})


@pytest.mark.parametrize("call", [lambda c, b: c.ask(b), lambda c, b: list(c.stream(b))])
@pytest.mark.parametrize("odd", ["half a pair: \ud800", float("inf"), float("nan"), b"bytes"])
def test_a_question_that_is_not_json_is_refused_and_not_sent(answering, odd, call):
    with pytest.raises(UsageError, match=r"PHI3-U718 inputs: cannot be written as JSON: .*Fix: "):
        call(answering(b"{}"), {"messages": [{"role": "user", "content": odd}]})
    assert answering.asked == 0


def test_a_question_arrives_as_json_with_its_characters(answering, monkeypatch):
    client, sent = answering(b"{}"), []
    monkeypatch.setattr(client._client, "post", lambda _uri, **given: sent.append(given) or OK)
    client.ask({"text": "\N{SNOWMAN} \N{GRINNING FACE}"})
    (given,) = sent
    assert json.loads(given["content"]) == {"text": "\N{SNOWMAN} \N{GRINNING FACE}"}
    assert client._client.headers["Content-Type"] == "application/json"


def test_an_event_that_is_not_json_is_told_after_those_that_are(answering):
    events = answering(b'data: {"n": 1}\n\ndata: <html>\n\n').stream({})
    assert next(events) == {"n": 1}
    with pytest.raises(AzureError, match="PHI3-A712"):
        next(events)


def test_a_stream_that_breaks_off_is_told(answering):
    events = answering(b'data: {"n": 1}\n\n', promised=9).stream({})
    assert next(events) == {"n": 1}
    with pytest.raises(AzureError, match="PHI3-A706"):
        next(events)


def test_nobody_waits_for_longer_than_there_is_time(answering):
    with pytest.raises(AzureError, match=r"PHI3-A707 .*status 503"):
        answering(b"{}", status=503, retry_after="19").ask({})
    assert answering.asked == 1


@pytest.mark.parametrize(
    ("answer", "by_token", "again"),
    [
        ({"status": 429}, True, True),
        ({"status": 503}, True, True),
        ({"status": 408}, True, False),
        ({"status": 500}, True, False),
        ({"status": 502}, True, False),
        ({"status": 504}, True, False),
        ({"promised": 9}, True, False),  # it breaks off: the model may have generated
        ({"status": 500}, False, True),
        ({"status": 424, "ms_azureml_model_error_statuscode": "503"}, False, True),
        ({"status": 424, "ms_azureml_model_error_statuscode": "400"}, False, False),
        ({"status": 424}, False, False),
        ({"promised": 9}, False, True),
    ],
)
def test_what_may_be_billed_already_is_not_asked_again(answering, answer, by_token, again):
    asked = answering(b"{}", by_token=by_token, **answer)
    with pytest.raises(AzureError, match=r"PHI3-A70[67]"):
        asked.ask({})
    assert (answering.asked > 1) is again


def test_a_billed_question_that_reached_nobody_is_asked_again(answering, monkeypatch):
    client = answering(b"{}", by_token=True, total_s=5.0)
    posted, tries = client._client.post, []

    def post(*args, **kwargs):
        tries.append(kwargs["timeout"].read)
        if len(tries) == 1:
            raise httpx.ConnectError("refused")
        return posted(*args, **kwargs)

    monkeypatch.setattr(client._client, "post", post)
    assert client.ask({}) == {}
    assert answering.asked == 1
    assert tries[1] < tries[0] <= 5.0  # a try is given what is left of the time


def test_what_the_scoring_process_answered_is_told(answering):
    """A managed endpoint makes 424 of whatever is not 200, and names that in a header."""
    client = answering(
        b'{"message": "too hot"}', status=424, ms_azureml_model_error_statuscode="400"
    )
    with pytest.raises(AzureError, match=r"too hot .*status 400"):
        client.ask({})
    with pytest.raises(AzureError, match=r"too hot .*status 400"):
        list(client.stream({}))


@pytest.mark.parametrize("call", [lambda c: c.ask({}), lambda c: list(c.stream({}))])
def test_nobody_there_is_told_with_the_mend(answering, call):
    with pytest.raises(AzureError, match=r"PHI3-A706 http://127.0.0.1:9/score: .*check the net"):
        call(answering.client("http://127.0.0.1:9/score"))


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5, 1.5),
        ({"x-ms-retry-after-ms": "1500"}, 1.5, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "3"}, 3, 3),
        ({"Retry-After": "3600"}, 20, 20),
        ({"Retry-After": format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))}, 20, 20),
        # The time is over, or nothing is told: as without the header.
        ({"Retry-After": format_datetime(dt.datetime.now(dt.UTC))}, 0.4, 0.4),
        ({"Retry-After": "0"}, 0.4, 0.4),
        ({"Retry-After": "-5"}, 0.4, 0.4),
        ({"Retry-After": "soon"}, 0.4, 0.4),
        ({}, 0.4, 0.4),
    ],
)
def test_the_service_says_how_long_to_wait(headers, least_s, most_s):
    state = SimpleNamespace(
        outcome=Future.construct(3, _Busy(httpx.Response(429, headers=headers)), True),
        attempt_number=3,
    )
    assert least_s <= _wait_s(state) <= most_s
