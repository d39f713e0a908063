"""A checkpoint in this process that answers chat requests, one at a time."""

import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.base import Precision, load_tokenizer
from mlflow_phi3.modeling.generate import context_length, padding_id, render_prompt, stop_ids
from mlflow_phi3.modeling.hardware import choose_device, has_bfloat16
from mlflow_phi3.modeling.kinds import choose_class, is_pinned, labels_of
from mlflow_phi3.modeling.reading import reading
from mlflow_phi3.serving.package import CHECKPOINT
from mlflow_phi3.serving.protocol import (
    Answer,
    ChatRequest,
    TokenLogprob,
    allowed_tokens,
)
from mlflow_phi3.serving.text import TextStream
from mlflow_phi3.serving.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded portable checkpoint.

    Args:
        model: In evaluation mode, gradients off.
        tokenizer: With a chat template.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """What a classifier tells apart; empty for a model that answers."""
        return labels_of(self.model)


def load_checkpoint(folder: Path, *, device: str = "auto", dtype: Precision = "auto") -> Checkpoint:
    """Load a portable checkpoint folder.

    Args:
        folder: As :func:`mlflow_phi3.modeling.merge.merge_adapter` or
            :func:`mlflow_phi3.modeling.portable.save_pinned` writes it.
        device: torch device; ``auto`` takes a CUDA GPU when there is one.
        dtype: Number format to compute in; ``auto`` is the one it was written in, and float32
            where that is bfloat16 and the CPU would have to emulate it. An adapter with its base
            pinned always takes the format it was written for.

    Raises:
        PreflightError: There is no checkpoint, or an adapter's base is another than it was.
        UsageError: The folder is not whole, its tokenizer has no chat template, or there is no such
            device on this machine.
    """
    device = choose_device(device)
    if is_pinned(folder):
        # PEFT, which a merged model does without.
        from mlflow_phi3.modeling.portable import load_portable

        base = load_portable(folder, device=device)
        return Checkpoint(base.model, base.tokenizer)
    if not (folder / "config.json").is_file():
        within = folder / CHECKPOINT
        raise PreflightError(
            "PHI3-P040",
            "no config.json: this is not a checkpoint",
            where=str(folder),
            fix=f"name {within}" if within.is_dir() else "name the folder of a merged model",
        )
    tokenizer = load_tokenizer(str(folder.resolve()))
    emulated = not has_bfloat16(device)
    with reading(str(folder)):
        model = choose_class(str(folder)).from_pretrained(
            folder,
            # Every bfloat16 is a float32: these are the same weights, and less is rounded.
            dtype="float32" if dtype == "auto" and emulated else dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    model.to(device).eval().requires_grad_(requires_grad=False)
    return Checkpoint(model, tokenizer)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request whose prompt fits.

    Args:
        request: As it was asked.
        ids: Of the rendered messages.
        length: Tokens of the answer, at most.
    """

    request: ChatRequest
    ids: list[int]
    length: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Answers to one request.

    Args:
        answers: ``request.n`` of them.
        prompt_tokens: Tokens of the rendered messages.
    """

    answers: tuple[Answer, ...]
    prompt_tokens: int


class LocalModel:
    """Answers requests with ``transformers``' ``generate``, one request after the other.

    Args:
        checkpoint: What answers.
        default_max_tokens: Length of an answer when the request names none.
        cache_tokens: Tokens of prompt and answer together, at most, where that is less than the
            model's context; None leaves it at that.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        default_max_tokens: int = 512,
        cache_tokens: int | None = None,
    ) -> None:
        self._model, self._tokenizer = checkpoint.model, checkpoint.tokenizer
        self._ends = stop_ids(self._model, self._tokenizer)
        self._vocabulary = Vocabulary(checkpoint.tokenizer)
        self._default = default_max_tokens
        self._cache_tokens = cache_tokens
        # A seed sets torch's global generator: two requests at once would disturb each other.
        self._turn = threading.Lock()

    def prepare(self, request: ChatRequest) -> Prompt:
        """Render the messages and see whether they fit.

        Raises:
            UsageError: The messages fill the context, or the cache.
        """
        ids = render_prompt(self._tokenizer, request.to_messages())
        context, bound = context_length(self._model), "the model's context is"
        if self._cache_tokens is not None and self._cache_tokens < context:
            context, bound = self._cache_tokens, "the server's cache_tokens are"
        length = allowed_tokens(
            request, prompt=len(ids), context=context, default=self._default, bound=bound
        )
        return Prompt(request, ids, length)

    def answer(self, prompt: Prompt, left: threading.Event | None = None) -> Reply:
        """Answer ``prompt``; greedy at temperature 0, otherwise sampled, repeatably with a seed.

        Args:
            prompt: What is asked.
            left: Set by another thread when nobody waits any more; ends the generation.
        """
        request = prompt.request
        with self._turn, torch.random.fork_rng(), torch.inference_mode():
            if request.seed is None:
                torch.seed()  # else all would be alike: the block takes the generator back
            else:
                torch.manual_seed(request.seed)
            rows, logits = self._generate(prompt, left)
        answers = tuple(
            self._to_answer(request, row, logits[index] if request.logprobs else None)
            for index, row in enumerate(rows)
        )
        return Reply(answers, len(prompt.ids))

    def _generate(
        self, prompt: Prompt, left: threading.Event | None
    ) -> tuple[list[list[int]], torch.Tensor]:
        """``n`` rows of generated ids, and logits ``[n, generated, vocabulary]``."""
        request = prompt.request
        ids = torch.tensor([prompt.ids], device=self._model.device)
        # Greedy answers are all the same: one is generated, and given n times.
        sampled = request.temperature > 0
        stops = StoppingCriteriaList()
        if request.stop:
            stops.append(_StopText(self._tokenizer, request.stop, len(prompt.ids)))
        if left:
            stops.append(_StopWhenLeft(left))
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=self._generation_config(request, prompt.length),
            stopping_criteria=stops,
        )
        copies = 1 if sampled else request.n
        rows = [list(map(int, row)) for row in output.sequences[:, len(prompt.ids) :]]
        if not request.logprobs:
            return rows * copies, torch.empty(0)
        return rows * copies, torch.stack(output.logits, dim=1).repeat(copies, 1, 1)

    def _generation_config(self, request: ChatRequest, length: int) -> GenerationConfig:
        sampled = request.temperature > 0
        choice = {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=length,
            do_sample=sampled,
            num_return_sequences=request.n if sampled else 1,
            eos_token_id=self._ends,
            pad_token_id=padding_id(self._model, self._tokenizer),
            return_dict_in_generate=True,
            output_logits=request.logprobs,
            **(choice if sampled else {}),
        )

    def _to_answer(
        self, request: ChatRequest, row: list[int], logits: torch.Tensor | None
    ) -> Answer:
        """Cut one row at its end, and read its text."""
        stream = TextStream(self._tokenizer, request.stop)
        pieces: list[str] = []
        starts: list[int] = []  # where in the text each token begins
        for used, token in enumerate(row, start=1):
            if token in self._ends:
                text = "".join([*pieces, stream.finish()])
                return Answer(text, used, "stop", self._logprobs(request, row[: used - 1], logits))
            starts.append(stream.length)
            pieces.append(stream.push(token))
            if stream.stopped:
                break
        text = "".join([*pieces, stream.finish()])
        if not stream.stopped:
            return Answer(text, len(starts), "length", self._logprobs(request, row, logits))
        kept = sum(start < len(text) for start in starts)
        return Answer(text, len(starts), "stop", self._logprobs(request, row[:kept], logits))

    def _logprobs(
        self, request: ChatRequest, row: list[int], logits: torch.Tensor | None
    ) -> tuple[TokenLogprob, ...]:
        if logits is None or not row:
            return ()
        scores = logits[: len(row)].float().log_softmax(-1)
        best = scores.topk(request.top_logprobs, dim=-1)
        return tuple(
            TokenLogprob(
                token=self._vocabulary.bytes_of(token),
                logprob=scores[at, token].item(),
                top=tuple(
                    (self._vocabulary.bytes_of(other), value)
                    for other, value in zip(
                        best.indices[at].tolist(), best.values[at].tolist(), strict=True
                    )
                ),
            )
            for at, token in enumerate(row)
        )


class _StopText(StoppingCriteria):  # type: ignore[misc]  # transformers' types are not followed
    """Ends each row whose text holds a stop sequence."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...], prompt: int) -> None:
        self._tokenizer, self._stop, self._prompt = tokenizer, stop, prompt

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        """Bool ``[rows]``: which are done."""
        del scores, kwargs
        rows = input_ids[:, self._prompt :]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)  # as TextStream reads
        done = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


class _StopWhenLeft(StoppingCriteria):  # type: ignore[misc]  # transformers' types are not followed
    """Ends all rows when nobody waits for them."""

    def __init__(self, left: threading.Event) -> None:
        self._left = left

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        """Bool ``[rows]``: which are done."""
        del scores, kwargs
        rows = (len(input_ids),)
        return torch.full(rows, self._left.is_set(), dtype=torch.bool, device=input_ids.device)
