"""The server over real sockets, asked by the real clients."""

import asyncio
import json
import re
import socket
import threading
import time

import httpx
import openai
import pytest
import uvicorn

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import Phi3Error, PreflightError
from mlflow_phi3.serving.concurrent import ConcurrentModel
from mlflow_phi3.serving.protocol import parse_request
from mlflow_phi3.serving.server import build_app, listen

HELLO = [{"role": "user", "content": "hold the light"}]
QUESTIONS = ["hold the light", "x", "the button?", "blue " * 9, "until the light turns", "é"]


class Server:
    """uvicorn in a thread."""

    def __init__(self, checkpoint, **limits):
        self.config = ServeConfig(default_max_tokens=12, cache_tokens=4096, **limits)
        self.model = ConcurrentModel(checkpoint, default_max_tokens=12, cache_tokens=4096)
        app = build_app(self.model, self.config, name="tiny")
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()
        assert not self._thread.is_alive()
        assert not self.model.alive

    def post(self, body, path="/v1/chat/completions", **more):
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def measure(self, name):
        (found,) = re.findall(rf"^{re.escape(name)} (.+)$", self.metrics(), re.MULTILINE)
        return float(found)

    def answered(self, status):
        name = f'phi3_requests_total{{status="{status}"}}'
        return self.measure(name) if name in self.metrics() else 0

    def metrics(self):
        return httpx.get(f"{self.url}/metrics").text

    def wait_until_empty(self):
        deadline = time.monotonic() + 20
        while self.measure("phi3_requests_inside"):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def server(checkpoint):
    with Server(checkpoint) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(content, **more):
    return {"messages": [{"role": "user", "content": content}]} | more


def expected(local, content, **more):
    return local.answer(parse_request(ask(content, **more)))


@pytest.fixture(scope="module")
def endless(local):
    """A question whose greedy answer goes on to the end of the context."""
    for question in (f"light {n}" for n in range(200)):
        if expected(local, question, max_tokens=220).answers[0].finish == "length":
            return question
    raise AssertionError


def text(response):
    return response.json()["choices"][0]["message"]["content"]


def test_openai_client_gets_the_local_models_answer(client, local):
    found = client.chat.completions.create(model="any", messages=HELLO, max_tokens=9)
    reply = expected(local, HELLO[0]["content"], max_tokens=9)
    assert found.choices[0].message.content == reply.answers[0].text
    assert found.choices[0].finish_reason == reply.answers[0].finish
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (reply.prompt_tokens, 9)
    assert found.model == "any"


def test_openai_client_streams_the_same_text(client, local):
    stream = client.chat.completions.create(
        model="any",
        messages=HELLO,
        max_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    reply = expected(local, HELLO[0]["content"], max_tokens=9)
    assert "".join(pieces) == reply.answers[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


def test_concurrent_greedy_requests_each_get_their_own_answer(server, local):
    bodies = [ask(QUESTIONS[n % len(QUESTIONS)], max_tokens=4 + n % 9) for n in range(24)]

    async def all_at_once():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            return await asyncio.gather(
                *(http.post("/v1/chat/completions", json=body) for body in bodies)
            )

    for body, found in zip(bodies, asyncio.run(all_at_once()), strict=True):
        reply = local.answer(parse_request(body))
        assert text(found) == reply.answers[0].text
        assert found.json()["usage"]["completion_tokens"] == reply.answers[0].tokens


@pytest.mark.parametrize("path", ["/invocations", "/chat/completions"])
def test_mlflow_and_azure_paths_answer_the_same(server, path):
    body = ask("x", max_tokens=5)
    assert text(server.post(body, path)) == text(server.post(body))


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_ends_the_answer(client, local, stream):
    whole = expected(local, HELLO[0]["content"], max_tokens=30).answers[0].text
    stop = whole[3:5]
    found = client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=30, stop=[stop], stream=stream
    )
    if stream:
        chunks = [chunk.choices[0] for chunk in found]
        answer = "".join(chunk.delta.content or "" for chunk in chunks)
        finish = chunks[-1].finish_reason
    else:
        answer, finish = found.choices[0].message.content, found.choices[0].finish_reason
    assert answer == whole[: whole.index(stop)]
    assert finish == "stop"


def test_several_sampled_answers_differ_and_a_seed_repeats(client, local):
    ask_many = {"model": "m", "messages": HELLO, "n": 3, "temperature": 1.5, "max_tokens": 8}
    sampled = client.chat.completions.create(**ask_many)
    assert len({choice.message.content for choice in sampled.choices}) > 1
    assert [choice.index for choice in sampled.choices] == [0, 1, 2]
    assert 3 <= sampled.usage.completion_tokens <= 24
    first, again = (client.chat.completions.create(**ask_many, seed=4) for _ in range(2))
    assert first.choices == again.choices


def test_a_tiny_top_p_samples_the_greedy_answer(server):
    greedy = text(server.post(ask("x", max_tokens=6)))
    assert text(server.post(ask("x", max_tokens=6, temperature=1, top_p=1e-6))) == greedy


def test_streamed_answers_keep_their_index(client):
    stream = client.chat.completions.create(
        model="m", messages=HELLO, n=2, temperature=1.2, max_tokens=4, stream=True
    )
    ends = [c.choices[0].index for c in stream if c.choices[0].finish_reason]
    assert sorted(ends) == [0, 1]


def test_logprobs_come_with_alternatives(client):
    found = client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = found.choices[0].logprobs.content
    assert len(content) == 3
    assert all(item.logprob == item.top_logprobs[0].logprob for item in content)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "PHI3-U040"),
        (json.dumps({"messages": []}).encode(), "PHI3-U041 messages"),
        (json.dumps(ask("x", temperature=7)).encode(), "PHI3-U041 temperature"),
        (json.dumps(ask("x", temperature=1, seed=2**70)).encode(), "PHI3-U041 seed"),
        (json.dumps(ask("x", temperature=1, seed=2**70, stream=True)).encode(), "PHI3-U041 seed"),
        (json.dumps(ask("\ud800 x")).encode(), "no character"),
        (json.dumps(ask("x", model="\ud800")).encode(), "no character"),
        (json.dumps(ask("x", **{"\udfff": 1})).encode(), "no character"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_body_is_a_400_that_says_what(server, body, told):
    counted = server.answered(400)
    found = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert found.status_code == 400
    assert told in found.json()["error"]["message"]
    assert server.answered(400) == counted + 1


@pytest.mark.parametrize("temperature", [1e-6, 5e-38, 1e-320])
def test_a_tiny_temperature_is_greedy_and_harms_nobody(server, temperature):
    greedy = text(server.post(ask("x", max_tokens=4)))
    assert text(server.post(ask("x", max_tokens=4, temperature=temperature))) == greedy
    assert server.post(ask("x", max_tokens=4, temperature=1)).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_whose_thread_died_is_made_anew(checkpoint, monkeypatch, temperature):
    model = ConcurrentModel(checkpoint, default_max_tokens=4, cache_tokens=4096)
    prompt = model.prepare(parse_request(ask("x", temperature=temperature)))
    asyncio.run(model.answer(prompt))
    died = model._batchers[temperature > 0]
    with monkeypatch.context() as patched:
        patched.setattr(died._manager, "_generation_step", lambda: 1 / 0)
        with pytest.raises(Phi3Error, match=r"PHI3-T070 .*division by zero"):
            asyncio.run(model.answer(prompt))
    assert not died.alive
    assert model.alive
    assert asyncio.run(model.answer(prompt)).answers[0].tokens
    model.stop()
    assert not model.alive


@pytest.mark.parametrize("error", [ValueError("what is this"), Phi3Error("PHI3-T070", "it broke")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_ours_is_told_in_openais_shape_and_counted(server, monkeypatch, stream, error):
    async def fail(*_):
        raise error
        yield

    monkeypatch.setattr(server.model, "pieces", fail)
    monkeypatch.setattr(server.model, "answer", lambda prompt: anext(fail()))
    counted = server.answered(500)
    found = server.post(ask("x", stream=stream))
    told = json.loads(found.text.rpartition("data: ")[2])["error"]
    assert found.status_code == (200 if stream else 500)
    assert told["code"] == getattr(error, "code", "PHI3-T071")
    assert told["type"] == "server_error"
    assert "what is this" not in told["message"]
    assert server.answered(500) == counted + 1


def test_a_request_past_the_context_is_a_400_with_the_numbers(client):
    with pytest.raises(openai.BadRequestError, match=r"\d+ tokens and .* context is 256") as told:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 300}])
    assert told.value.code == "PHI3-U042"
    assert told.value.param == "messages"


def test_an_oversized_body_is_a_413(server):
    found = server.post(ask("x" * (server.config.max_body_bytes + 1)))
    assert found.status_code == 413


def test_a_full_house_is_a_429_with_a_time(checkpoint, endless):
    with Server(checkpoint, max_waiting=1) as small:
        with httpx.stream(
            "POST",
            f"{small.url}/v1/chat/completions",
            json=ask(endless, max_tokens=220, n=16, stream=True),
            timeout=60,
        ) as held:
            lines = held.iter_lines()  # kept: httpx closes the response with it
            assert next(lines).startswith("data: ")
            refused = small.post(ask("x", max_tokens=1))
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
        small.wait_until_empty()
        assert small.post(ask("x", max_tokens=1)).status_code == 200


def test_those_whose_body_is_on_its_way_are_inside(checkpoint):
    body = json.dumps(ask("x", max_tokens=1)).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with Server(checkpoint, max_waiting=2) as small:
        address = small.url.removeprefix("http://").split(":")
        slow = [socket.create_connection(address) for _ in range(2)]
        for connection in slow:
            connection.sendall(head.encode() + body[:-1])
        while small.measure("phi3_requests_inside") < 2:
            time.sleep(0.005)
        assert small.post(ask("x", max_tokens=1)).status_code == 429
        slow[0].sendall(body[-1:])
        assert slow[0].recv(12) == b"HTTP/1.1 200"
        slow[1].close()  # in the midst of its body
        small.wait_until_empty()
        assert (small.answered(429), small.answered(200), small.answered(499)) == (1, 1, 1)
        slow[0].close()


def test_a_long_prompt_keeps_nobody_waiting(server, monkeypatch):
    prepare, asked = server.model.prepare, threading.Event()
    going_on = threading.Event()

    def slowly(request):
        asked.set()
        assert going_on.wait(60)
        return prepare(request)

    monkeypatch.setattr(server.model, "prepare", slowly)
    found = []
    client = threading.Thread(target=lambda: found.append(server.post(ask("x", max_tokens=1))))
    client.start()
    try:
        assert asked.wait(60)
        assert httpx.get(f"{server.url}/health", timeout=20).status_code == 200
    finally:
        going_on.set()
        client.join(60)
    assert found[0].status_code == 200


def test_those_who_wait_for_a_turn_alone_keep_nobody_from_being_prepared(server, monkeypatch):
    answer, going_on = server.model._single.answer, threading.Event()

    def slowly(request, left):
        assert going_on.wait(60)
        return answer(request, left)

    monkeypatch.setattr(server.model._single, "answer", slowly)
    alone = ask("x", max_tokens=1, temperature=1, seed=1)
    clients = [threading.Thread(target=server.post, args=[alone]) for _ in range(40)]
    for client in clients:
        client.start()
    try:
        while server.measure("phi3_requests_inside") < len(clients):
            time.sleep(0.01)
        assert server.post(ask("x", max_tokens=1)).status_code == 200
    finally:
        going_on.set()
        for client in clients:
            client.join(60)


@pytest.mark.parametrize("more", [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_generation(server, endless, more, stream):
    left = server.answered(499)
    body = ask(endless, max_tokens=220, n=16, stream=stream, **more)
    connection = socket.create_connection(server.url.removeprefix("http://").split(":"))
    payload = json.dumps(body).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    while not server.measure("phi3_requests_inside"):
        time.sleep(0.005)
    connection.close()
    server.wait_until_empty()
    assert server.answered(499) == left + 1
    for batcher in server.model._batchers.values():
        processor = batcher._manager.batch_processor
        deadline = time.monotonic() + 10
        while processor.scheduler.active_requests or processor.scheduler.waiting_requests:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not len(batcher.deliveries)


def test_health_models_and_metrics(server, client):
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert [model.id for model in client.models.list()] == ["tiny"]
    before = server.measure("phi3_completion_tokens_total")
    server.post(ask("x", max_tokens=3))
    assert server.measure("phi3_completion_tokens_total") == before + 3
    assert server.measure("phi3_request_seconds_count") >= 1


def test_a_token_does_not_wait_for_the_last_ones_acknowledgement():
    with listen(ServeConfig(port=0)) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_told_with_the_mend():
    with listen(ServeConfig(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=rf"PHI3-P045 port: .* port {port}: .* Fix: "):
            listen(ServeConfig(port=port))
