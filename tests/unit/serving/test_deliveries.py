"""When tokens reach those who wait for them."""

import asyncio
from types import SimpleNamespace

from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from mlflow_phi3.serving.deliveries import Deliveries

FOREVER_S = 1e9


def output(name, tokens, status=RequestStatus.DECODING):
    return GenerationOutput(name, generated_tokens=list(range(tokens)), status=status)


def brought(interval_s, *steps, waiting=("a", "b")):
    """Tokens of each output that reaches the one who waits for ``a``, step by step."""

    async def run():
        deliveries = Deliveries(interval_s)
        queues = {name: deliveries.open(name) for name in waiting}
        seen = []
        for step in steps:
            deliveries.deliver_batch(step)
            await asyncio.sleep(0)
            arrived = queues["a"]
            seen.append(
                [len(arrived.get_nowait().generated_tokens) for _ in range(arrived.qsize())]
            )
        return seen

    return asyncio.run(run())


def test_without_an_interval_every_token_comes_by_itself():
    assert brought(0.0, *([output("a", n)] for n in (1, 2, 3))) == [[1], [2], [3]]


def test_the_first_token_and_the_end_come_at_once_and_the_rest_with_them():
    finished = output("a", 5, RequestStatus.FINISHED)
    steps = [[output("a", n)] for n in (1, 2, 3, 4)] + [[finished]]
    assert brought(FOREVER_S, *steps) == [[1], [], [], [], [5]]


def test_after_the_interval_what_lies_there_is_brought(monkeypatch):
    times = iter([100, 100, 105, 110, 110, 119])  # of each step, and of what it brings
    clock = SimpleNamespace(monotonic=lambda: next(times))
    monkeypatch.setattr("mlflow_phi3.serving.deliveries.time", clock)
    assert brought(10.0, *([output("a", n)] for n in (1, 2, 3, 4))) == [[1], [], [3], []]


def test_a_failure_comes_at_once():
    failed = output("a", 2, RequestStatus.FAILED)
    assert brought(FOREVER_S, [output("a", 1)], [failed]) == [[1], [2]]


def test_what_is_due_for_one_brings_what_lies_there_for_all():
    steps = [[output("a", 1)], [output("a", 2)], [output("a", 3), output("b", 1)]]
    assert brought(FOREVER_S, *steps) == [[1], [], [3]]


def test_what_nobody_waits_for_is_dropped():
    async def run():
        deliveries = Deliveries(0.0)
        arrived = deliveries.open("a")
        deliveries.deliver(output("gone", 1))
        deliveries.deliver(output("a", 1))
        await asyncio.sleep(0)
        assert arrived.qsize() == 1
        deliveries.deliver(output("a", 2))
        deliveries.close("a")
        await asyncio.sleep(0)
        assert arrived.qsize() == 1
        assert len(deliveries) == 0
        assert deliveries.output_queue.empty()

    asyncio.run(run())


def test_who_leaves_in_the_midst_takes_nothing_from_the_others():
    async def run():
        deliveries = Deliveries(FOREVER_S)
        deliveries.open("a")
        arrived = deliveries.open("b")
        deliveries.deliver(output("a", 1))
        await asyncio.sleep(0)
        deliveries.deliver(output("a", 2))  # waits until something is due
        deliveries.close("a")
        deliveries.deliver(output("b", 1))
        await asyncio.sleep(0)
        assert arrived.qsize() == 1

    asyncio.run(run())


def test_it_serves_one_loop_after_the_other():
    deliveries = Deliveries(FOREVER_S)

    async def leave_something():
        deliveries.open("a")
        deliveries.deliver(output("a", 1))  # on its way when this loop ends
        deliveries.close("a")

    async def go_on():
        arrived = deliveries.open("b")
        deliveries.deliver(output("b", 1))
        return await asyncio.wait_for(arrived.get(), 5)

    asyncio.run(leave_something())
    assert asyncio.run(go_on()).request_id == "b"
