"""Tokens on their way from the generating thread to those who wait for them."""

import asyncio
import time

from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput


class Deliveries(OutputRouter):  # type: ignore[misc]  # transformers' types are not followed
    """Brings what was generated into the event loop, for all requests at once.

    To wake the loop for each token, and a client for each event, takes longer than a small model
    needs for the token. First tokens and ends are brought at once; what comes between waits until
    ``interval_s`` after the last delivery, which slower models never have to. What nobody waits for
    any more is dropped.

    Args:
        interval_s: Seconds; 0 brings every token by itself.
    """

    def __init__(self, interval_s: float) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._waiting: dict[str, asyncio.Queue[GenerationOutput]] = {}
        self._latest: dict[str, GenerationOutput] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_the_way = False
        self._brought_at = 0.0

    def __len__(self) -> int:
        """Requests that are waited for."""
        return len(self._waiting)

    def open(self, name: str) -> "asyncio.Queue[GenerationOutput]":
        """Wait for the request ``name``; each output holds all tokens so far."""
        arrived: asyncio.Queue[GenerationOutput] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop is not self._loop:
                self._loop, self._on_the_way = loop, False
            self._waiting[name] = arrived
        return arrived

    def close(self, name: str) -> None:
        """Wait for it no more."""
        with self._lock:
            self._waiting.pop(name, None)
            self._latest.pop(name, None)

    def deliver(self, output: GenerationOutput) -> None:
        """Take one output; called by the generating thread."""
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """Take the outputs of a step; called by the generating thread."""
        now = time.monotonic()
        with self._lock:
            wanted = [output for output in outputs if output.request_id in self._waiting]
            self._latest.update((output.request_id, output) for output in wanted)
            at_once = any(o.is_finished() or len(o.generated_tokens) == 1 for o in wanted)
            due = at_once or now - self._brought_at >= self._interval_s
            if self._on_the_way or not due or not self._latest or self._loop is None:
                return
            self._on_the_way = True
            loop = self._loop
        loop.call_soon_threadsafe(self._bring)

    def _bring(self) -> None:
        with self._lock:
            latest, self._latest = self._latest, {}
            self._on_the_way, self._brought_at = False, time.monotonic()
            for name, output in latest.items():
                self._waiting[name].put_nowait(output)
