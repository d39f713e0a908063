"""The server over real sockets, asked by the real clients."""

import asyncio
import json

import httpx
import openai
import pytest

from mlflow_phi3.errors import Phi3Error, UsageError
from mlflow_phi3.serving.concurrent import ConcurrentModel
from mlflow_phi3.serving.local import Checkpoint, LocalModel
from mlflow_phi3.serving.protocol import parse_request
from tests.tiny_phi3 import with_longrope
from tests.unit.serving.running import QUESTIONS, ask, expected, reply_to

HELLO = [{"role": "user", "content": "hold the light"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


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


def test_an_answer_can_be_sent_back_as_the_client_holds_it(client):
    first = client.chat.completions.create(model="m", messages=HELLO, max_tokens=2)
    kept = [*HELLO, first.choices[0].message.model_dump(), HELLO[0]]
    again = client.chat.completions.create(model="m", messages=kept, max_tokens=2)
    assert again.usage.prompt_tokens > 2 * first.usage.prompt_tokens


def test_concurrent_greedy_requests_each_get_their_own_answer(server, local):
    bodies = [ask(QUESTIONS[n % len(QUESTIONS)], max_tokens=4 + n % 9) for n in range(24)]

    async def all_at_once():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            return await asyncio.gather(
                *(http.post("/v1/chat/completions", json=body) for body in bodies)
            )

    for body, found in zip(bodies, asyncio.run(all_at_once()), strict=True):
        reply = reply_to(local, body)
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


def test_greedy_answers_are_generated_once(checkpoint, local, monkeypatch):
    model = ConcurrentModel(checkpoint, cache_tokens=4096)
    stream, begun = model._stream, []
    monkeypatch.setattr(
        model, "_stream", lambda *asked, live: begun.append(asked) or stream(*asked, live=live)
    )
    body = ask("x", n=3, max_tokens=6)

    async def read():
        prompt = model.prepare(parse_request(body))
        return [piece async for piece in model.pieces(prompt)], await model.answer(prompt)

    try:
        pieces, whole = asyncio.run(read())
    finally:
        model.stop()
    assert len(begun) == 2
    assert whole.answers == reply_to(local, body).answers
    for index, answer in enumerate(reply_to(local, body).answers):
        mine = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in mine) == answer.text
        assert sum(piece.tokens for piece in mine) == answer.tokens


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
    found = server.http.post("/v1/chat/completions", content=body)
    assert found.status_code == 400
    assert told in found.json()["error"]["message"]
    assert server.answered(400) == counted + 1


@pytest.mark.parametrize("temperature", [1e-6, 5e-38, 1e-320])
def test_a_tiny_temperature_is_greedy_and_harms_nobody(server, temperature):
    greedy = text(server.post(ask("x", max_tokens=4)))
    assert text(server.post(ask("x", max_tokens=4, temperature=temperature))) == greedy
    assert server.post(ask("x", max_tokens=4, temperature=1)).status_code == 200
    assert server.http.get("/health").status_code == 200


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


def test_of_several_answers_none_goes_on_when_one_fails(checkpoint, monkeypatch):
    model = ConcurrentModel(checkpoint, cache_tokens=4096)
    ended = []

    async def collect(_prompt, index):
        if index == 1:
            raise Phi3Error("PHI3-T070", "it broke")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(index)

    monkeypatch.setattr(model, "_collect", collect)
    prompt = model.prepare(parse_request(ask("x", n=3, temperature=1.0)))

    async def fail():
        with pytest.raises(Phi3Error, match="it broke"):
            await model.answer(prompt)
        return list(ended)

    try:
        assert asyncio.run(fail()) == [0, 2]
    finally:
        model.stop()


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


@pytest.mark.parametrize("more", [{}, {"logprobs": True}])
def test_a_prompt_that_leaves_the_cache_room_for_one_token_gets_it(checkpoint, local, more):
    model = ConcurrentModel(checkpoint, cache_tokens=64)
    try:
        asked = (parse_request(ask("x" * count, **more)) for count in range(64))
        prompt = next(p for p in map(model.prepare, asked) if len(p.ids) == 63)
        (found,) = asyncio.run(model.answer(prompt)).answers
        one = prompt.request.model_copy(update={"max_tokens": 1})
        assert found == local.answer(local.prepare(one)).answers[0]
        with pytest.raises(UsageError, match=r"\d+ tokens and the server's cache_tokens are 64"):
            model.prepare(parse_request(ask("x" * 64)))
        assert model.alive
    finally:
        model.stop()


def test_what_goes_beyond_longropes_original_context_is_answered_as_by_generate(checkpoint):
    stretched = Checkpoint(with_longrope(checkpoint.model, 40), checkpoint.tokenizer)
    model = ConcurrentModel(stretched, default_max_tokens=12, cache_tokens=4096)
    plain = LocalModel(stretched, default_max_tokens=12)
    requests = [parse_request(ask(text)) for text in ("x", "the light turns blue " * 12)]

    async def both():
        return await asyncio.gather(*(model.answer(model.prepare(one)) for one in requests))

    try:
        assert len(model.prepare(requests[0]).ids) + 12 < 40 < len(model.prepare(requests[1]).ids)
        found = asyncio.run(both())
        assert found == [plain.answer(plain.prepare(one)) for one in requests]
        streamed = asyncio.run(anext(model.pieces(model.prepare(requests[1]))))
        assert streamed.text == found[1].answers[0].text
    finally:
        model.stop()


def test_health_models_and_metrics(server, client):
    assert server.http.get("/health").json() == {"status": "ok"}
    assert [model.id for model in client.models.list()] == ["tiny"]
    before = server.measure("phi3_completion_tokens_total")
    server.post(ask("x", max_tokens=3))
    assert server.measure("phi3_completion_tokens_total") == before + 3
    assert server.measure("phi3_request_seconds_count") >= 1
