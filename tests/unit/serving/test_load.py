"""Many requests, some of them broken: none lost, none wrong, memory flat."""

import asyncio
import json

import httpx
import psutil
import pytest

from tests.unit.serving.running import QUESTIONS, Server, ask, reply_to

CLIENTS = 32


def bodies():
    return [ask(q, max_tokens=n) for q in QUESTIONS for n in (1, 2, 3)]


async def storm(server, answers, requests):
    """Ask ``requests`` in all; the statuses of those that were answered."""
    statuses = []
    good, turns = bodies(), iter(range(requests))
    address = server.url.removeprefix("http://").split(":")

    async def client(http):
        for turn in turns:
            kind = turn % 300
            if kind == 0:  # cut off in the middle of the body
                _, writer = await asyncio.open_connection(*address)
                writer.write(b"POST /invocations HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
                await writer.drain()
                writer.close()
                continue
            if kind == 100:
                found = await http.post("/v1/chat/completions", content=b"{]")
                assert found.status_code == 400
            elif kind == 200:
                found = await http.post("/v1/chat/completions", content=b"x" * 1_100_000)
                assert found.status_code == 413
            else:
                body = good[turn % len(good)]
                found = await http.post("/v1/chat/completions", json=body)
                assert found.status_code == 200, found.text
                said = found.json()["choices"][0]["message"]["content"]
                assert said == answers[json.dumps(body)]
            statuses.append(found.status_code)

    async with httpx.AsyncClient(base_url=server.url, timeout=300) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return statuses


def run_storm(checkpoint, local, requests):
    answers = {json.dumps(body): reply_to(local, body).answers[0].text for body in bodies()}
    with Server(checkpoint) as server:
        asyncio.run(storm(server, answers, requests // 4))  # what is made once is made now
        before = psutil.Process().memory_info().rss
        statuses = asyncio.run(storm(server, answers, requests))
        server.wait_until_empty()
        grown = psutil.Process().memory_info().rss - before
        for batcher in server.model._batchers.values():
            assert not len(batcher.deliveries)
    cut_off = len(range(0, requests, 300))
    assert len(statuses) == requests - cut_off
    return grown


def test_three_hundred_requests_none_lost_none_wrong(checkpoint, local):
    run_storm(checkpoint, local, 300)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_requests_in_flat_memory(checkpoint, local):
    grown = run_storm(checkpoint, local, 10_000)
    assert grown < 50_000_000  # 5 kB a request would be the responses themselves
