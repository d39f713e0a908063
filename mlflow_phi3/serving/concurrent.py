"""Answers many requests at once: each goes the way that fits it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from mlflow_phi3.errors import Phi3Error
from mlflow_phi3.modeling.generate import original_context, stop_ids
from mlflow_phi3.serving.batching import Batcher
from mlflow_phi3.serving.local import Checkpoint, LocalModel, Prompt, Reply
from mlflow_phi3.serving.protocol import (
    Answer,
    ChatRequest,
    FinishReason,
    TokenLogprob,
)
from mlflow_phi3.serving.text import TextStream


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bit of one answer.

    Args:
        index: Which of the request's answers.
        text: What is new, possibly empty.
        tokens: How many tokens it stands for.
        finish: Why the answer ends here, or None when it goes on.
        logprobs: Of the new tokens, when asked for.
    """

    index: int
    text: str
    tokens: int
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class ConcurrentModel:
    """A checkpoint that answers many requests at once.

    Greedy and sampled requests are batched continuously. Those with a ``seed`` or ``logprobs``, and
    those that may go beyond longrope's original context, are answered one after the other by
    ``generate``: the manager knows neither a seed nor the alternatives of a single request, and
    turns all of a pass, which need not hold a whole prompt, by the longest position in it.

    transformers ends a batch's thread at its first fault. The requests of that batch fail; another
    thread is started for the next ones.

    Args:
        checkpoint: What answers.
        default_max_tokens: Length of an answer when a request names none.
        cache_tokens: Capacity of the key-value cache on a CPU, and of any request.
        interval_s: As for :class:`mlflow_phi3.serving.deliveries.Deliveries`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        default_max_tokens: int = 512,
        cache_tokens: int = 16384,
        interval_s: float = 0.0,
    ) -> None:
        self._checkpoint = checkpoint
        self._cache_tokens = cache_tokens
        self._ends = set(stop_ids(checkpoint.model, checkpoint.tokenizer))
        self._single = LocalModel(
            checkpoint, default_max_tokens=default_max_tokens, cache_tokens=cache_tokens
        )
        self._interval_s = interval_s
        # Of its own: those who wait here for their turn must not keep others from being prepared.
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="alone")
        self._stopped = False
        self._batchers: dict[bool, Batcher] = {}
        self._batcher(sampling=False)

    @property
    def alive(self) -> bool:
        """Whether requests can be answered."""
        return all(batcher.alive for batcher in self._batchers.values())

    def stop(self) -> None:
        """End the background threads, if that is not done yet."""
        if self._stopped:
            return
        self._stopped = True
        self._turns.shutdown(wait=False, cancel_futures=True)
        for batcher in self._batchers.values():
            batcher.stop()

    def prepare(self, request: ChatRequest) -> Prompt:
        """Render the messages and see whether they fit.

        Raises:
            UsageError: The messages fill the context, or the cache.
        """
        return self._single.prepare(request)

    async def answer(self, prompt: Prompt) -> Reply:
        """All answers of one request; cancelling the task stops generation."""
        request = prompt.request
        if self._goes_alone(prompt):
            return await self._answer_alone(prompt)
        # Greedy answers are all the same: one is generated, and given n times.
        count = request.n if request.temperature else 1
        tasks = [asyncio.ensure_future(self._collect(prompt, index)) for index in range(count)]
        async with _ended(tasks):
            answers = await asyncio.gather(*tasks)
        return Reply(tuple(answers) * (request.n // count), len(prompt.ids))

    async def pieces(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answers as they come, interleaved; leaving early stops generation."""
        if self._goes_alone(prompt):
            reply = await self._answer_alone(prompt)
            for index, one in enumerate(reply.answers):
                yield Piece(index, one.text, one.tokens, one.finish, one.logprobs)
            return
        async with contextlib.aclosing(self._together(prompt)) as pieces:
            async for piece in pieces:
                yield piece

    def _together(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        if prompt.request.n == 1:  # nearly all requests; nothing has to be interleaved
            return self._stream(prompt, 0, live=True)
        return self._interleave(prompt) if prompt.request.temperature else self._repeat(prompt)

    async def _repeat(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """One greedy answer as all of them: each piece ``n`` times."""
        async with contextlib.aclosing(self._stream(prompt, 0, live=True)) as pieces:
            async for piece in pieces:
                for index in range(prompt.request.n):
                    yield replace(piece, index=index)

    async def _interleave(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        request = prompt.request
        arrived: asyncio.Queue[Piece | None] = asyncio.Queue()

        async def run(index: int) -> None:
            try:
                async for piece in self._stream(prompt, index, live=True):
                    arrived.put_nowait(piece)
            finally:
                arrived.put_nowait(None)

        tasks = [asyncio.ensure_future(run(index)) for index in range(request.n)]
        async with _ended(tasks):
            running = len(tasks)
            while running:
                piece = await arrived.get()
                if piece is None:
                    running -= 1
                else:
                    yield piece
            await asyncio.gather(*tasks)

    async def _collect(self, prompt: Prompt, index: int) -> Answer:
        text, tokens, finish = "", 0, None
        async for piece in self._stream(prompt, index, live=bool(prompt.request.stop)):
            text, tokens, finish = text + piece.text, tokens + piece.tokens, piece.finish
        return Answer(text, tokens, finish or "length")

    async def _stream(
        self, prompt: Prompt, index: int, *, live: bool
    ) -> AsyncGenerator[Piece, None]:
        """One answer, cut at its end; ``live`` as in :meth:`Batcher.tokens`."""
        request, sampling = prompt.request, prompt.request.temperature > 0
        choice = {"temperature": request.temperature, "top_p": request.top_p} if sampling else {}
        stream = TextStream(self._checkpoint.tokenizer, request.stop)
        batcher = self._batcher(sampling=sampling)
        tokens = batcher.tokens(prompt.ids, prompt.length, live=live, **choice)
        try:
            async for fresh in tokens:
                text, used = "", 0
                for used, token in enumerate(fresh, start=1):
                    if token in self._ends:
                        yield Piece(index, text + stream.finish(), used, "stop")
                        return
                    text += stream.push(token)
                    if stream.stopped:
                        yield Piece(index, text, used, "stop")
                        return
                yield Piece(index, text, used)
            yield Piece(index, stream.finish(), 0, "length")
        except Phi3Error:
            self._batcher(sampling=sampling)  # /health is not to wait for the next request
            raise
        finally:
            await tokens.aclose()

    def _goes_alone(self, prompt: Prompt) -> bool:
        request, last = prompt.request, len(prompt.ids) + prompt.length
        seeded = request.seed is not None and request.temperature > 0
        return request.logprobs or seeded or last > original_context(self._checkpoint.model)

    async def _answer_alone(self, prompt: Prompt) -> Reply:
        left = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._turns, self._single.answer, prompt, left)
        except asyncio.CancelledError:
            left.set()
            raise

    def _batcher(self, *, sampling: bool) -> Batcher:
        """The one for greedy or for sampled requests, which has a cache of its own.

        Made when it is first needed, and again when its thread has ended.
        """
        found = self._batchers.get(sampling)
        if found and (found.alive or self._stopped):
            return found
        if found:
            found.stop()  # its cache has to be given back before there is another
        self._batchers[sampling] = made = Batcher(
            self._checkpoint,
            sampling=sampling,
            cache_tokens=self._cache_tokens,
            interval_s=self._interval_s,
        )
        return made


@contextlib.asynccontextmanager
async def _ended(tasks: Sequence[asyncio.Future[Any]]) -> AsyncIterator[None]:
    """A block that leaves none of ``tasks`` behind: what still runs is cancelled."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
