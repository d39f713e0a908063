"""Concurrent requests, batched continuously by transformers' own manager."""

import copy
import itertools
import uuid
from collections.abc import AsyncGenerator

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from mlflow_phi3.errors import Phi3Error
from mlflow_phi3.modeling.generate import padding_id, stop_ids
from mlflow_phi3.serving.deliveries import Deliveries
from mlflow_phi3.serving.local import Checkpoint

# Tokens of a cache block. Small blocks share more of a common system prompt; transformers' own 256
# suits GPUs with long answers.
_BLOCK = 32
# Tokens computed in one pass on a CPU: a longer prompt is read in parts, so others go on meanwhile.
_CPU_BATCH_TOKENS = 512


class Batcher:
    """One background thread that generates for all requests at once.

    transformers decides between greedy and sampling for a whole manager, so a server keeps two; the
    weights are shared.

    Args:
        checkpoint: What generates.
        sampling: Whether requests bring a temperature and ``top_p``; otherwise all are greedy.
        cache_tokens: Capacity of the key-value cache on a CPU.
        interval_s: As for :class:`mlflow_phi3.serving.deliveries.Deliveries`.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, sampling: bool, cache_tokens: int, interval_s: float = 0.0
    ) -> None:
        model = share_weights(checkpoint.model)
        # The manager computes without gradients, but tracks views and versions of tensors: without
        # that, a small model takes a sixth less time for a token.
        model.forward = torch.inference_mode()(model.forward)
        self._ends = stop_ids(model, checkpoint.tokenizer)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=sampling,
                eos_token_id=self._ends,
                pad_token_id=padding_id(model, checkpoint.tokenizer),
                # Each has to differ from "off" here, or requests cannot set it.
                **({"temperature": 0.9, "top_p": 0.9, "top_k": 0} if sampling else {}),
            ),
            continuous_batching_config=_batching_config(
                model, sampling=sampling, cache_tokens=cache_tokens
            ),
        )
        self.deliveries = self._manager.output_router = Deliveries(interval_s)
        self._manager.start()

    @property
    def alive(self) -> bool:
        """Whether the background thread runs, and takes requests."""
        status = self._manager.background_thread_status
        return bool(self._manager.is_running()) and status.can_accept_new_requests() is None

    def stop(self) -> None:
        """Fail what is still asked, and end the thread."""
        self._manager.stop(block=True, timeout=10, hard_stop=True)

    async def tokens(
        self, prompt: list[int], length: int, *, live: bool, **choice: float
    ) -> AsyncGenerator[list[int], None]:
        """Generate for one prompt; leaving the iteration early cancels the request.

        Args:
            prompt: Token ids.
            length: Tokens to generate, at most.
            live: Give tokens as they come; otherwise all at the end, which costs less.
            choice: ``temperature`` and ``top_p``, when sampling.

        Yields:
            The next tokens; the last of all may be one that ends an answer.

        Raises:
            Phi3Error: Generation failed.
        """
        name, finished = uuid.uuid4().hex, False
        # First this: a short answer may be done before add_request returns.
        arrived = self.deliveries.open(name)
        try:
            if not self.alive or not self._manager.add_request(
                prompt, name, length, live, eos_token_id=self._ends, **choice
            ):
                raise _failed("the generating thread has ended")
            seen = 0
            while not finished:
                output = await arrived.get()
                if output.error is not None:
                    raise _failed(output.error)
                finished = output.is_finished()
                fresh = output.generated_tokens[seen:]
                seen += len(fresh)
                if fresh:
                    yield fresh
        finally:
            self.deliveries.close(name)
            if not finished:
                self._manager.cancel_request(name)


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second module tree with its own configuration over the same tensors.

    Continuous batching swaps the attention of its model for a paged one; the original stays usable.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _batching_config(
    model: PreTrainedModel, *, sampling: bool, cache_tokens: int
) -> ContinuousBatchingConfig:
    if model.device.type == "cuda":
        return ContinuousBatchingConfig(per_request_processors=sampling)
    return ContinuousBatchingConfig(
        block_size=_BLOCK,
        # One more than the tokens take: the scheduler asks for it when a prompt fills the last.
        num_blocks=-(-cache_tokens // _BLOCK) + 1,
        max_batch_tokens=_CPU_BATCH_TOKENS,
        per_request_processors=sampling,
        seed=int(torch.seed() % 2**31),
    )


def _failed(told: str) -> Phi3Error:
    return Phi3Error("PHI3-T070", f"generation failed: {told}", where="server")
