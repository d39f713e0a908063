"""The shape of a chat completion: what may be asked, and what is answered.

Source: OpenAI's API reference, "Create chat completion".
"""

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from mlflow_phi3.config.parse import first_fault
from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import UsageError

FinishReason = Literal["stop", "length"]

# Below it every token but the likeliest has no chance, and a division by less overflows; vLLM's
# bound too (_SAMPLING_EPS in vllm/sampling_params.py).
_LEAST_TEMPERATURE = 1e-5


class _Shape(BaseModel):
    """A JSON object whose keys are all known; those whose value is null count as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if value is not None}


class TextPart(_Shape):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _text_alone(cls, value: object) -> object:
        if value != "text":
            raise ValueError(f"got {value!r:.40}, and only text parts are taken")
        return value


class ChatMessage(_Shape):
    """One turn as the API has it; ``developer`` is the newer word for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: tuple[TextPart, ...]
    """In JSON also one bare text."""
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_or_parts(cls, value: object) -> object:
        if isinstance(value, str):
            return ({"type": "text", "text": value},)
        if not isinstance(value, list | tuple):
            raise ValueError(f"got {type(value).__name__}, not a text or a list of text parts")  # noqa: TRY004 - pydantic's way to say so
        return value

    def to_message(self) -> Message:
        """The turn as the chat template takes it."""
        role = "system" if self.role == "developer" else self.role
        return Message(role, "".join(part.text for part in self.content))


class StreamOptions(_Shape):
    """What a stream tells beside text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Shape):
    """One request; a name that is not here is refused, not dropped."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    model: str = ""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0, the default, is greedy, and so is what can hardly be told from it."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Capped to what the context leaves."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of ``max_tokens``; wins over it."""
    stop: Annotated[tuple[str, ...], Field(max_length=4)] = ()
    n: int = Field(default=1, ge=1, le=16)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    user: str = ""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    store: bool = False
    frequency_penalty: float = Field(default=0.0, ge=0, le=0)
    """Not supported: only 0, which changes nothing."""
    presence_penalty: float = Field(default=0.0, ge=0, le=0)
    """Not supported: only 0, which changes nothing."""

    @field_validator("temperature")
    @classmethod
    def _greedy_when_tiny(cls, value: float) -> float:
        return value if value >= _LEAST_TEMPERATURE else 0.0

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("a stop sequence is empty")
        return value

    @property
    def wanted_tokens(self) -> int | None:
        """Tokens of the answer asked for, or None."""
        return self.max_completion_tokens or self.max_tokens

    def to_messages(self) -> tuple[Message, ...]:
        """The conversation as the chat template takes it."""
        return tuple(message.to_message() for message in self.messages)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token and how likely it was.

    Args:
        token: Its bytes, which need not be whole characters.
        logprob: Natural logarithm of its probability before temperature and ``top_p``.
        top: The most likely tokens at that place with theirs, most likely first.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer.

    Args:
        text: Without special tokens, cut before the first stop sequence.
        tokens: How many were generated, the ending one included.
        finish: ``stop`` when the model or a stop sequence ended it, else ``length``.
        logprobs: When they were asked for, one per token that has a part in the text.
    """

    text: str
    tokens: int
    finish: FinishReason
    logprobs: tuple[TokenLogprob, ...] = ()


def parse_request(body: object) -> ChatRequest:
    """Turn a decoded JSON body into a request.

    Raises:
        UsageError: It is not one; the message names the first field that is wrong.
    """
    if not isinstance(body, Mapping):
        raise UsageError("PHI3-U040", f"the body is {type(body).__name__}, not a JSON object")
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        place, problem = first_fault(error)
        raise UsageError(
            "PHI3-U041",
            problem,
            where=place,
            fix="see docs/serving.md for what a request may hold",
        ) from error


def allowed_tokens(
    request: ChatRequest,
    *,
    prompt: int,
    context: int,
    default: int,
    bound: str = "the model's context is",
) -> int:
    """How long the answer may be: as asked, or ``default``, and never past the context.

    Args:
        request: What is asked.
        prompt: Tokens of the rendered messages.
        context: Tokens of prompt and answer together, at most.
        default: Tokens of an answer that names no length.
        bound: What sets ``context``, for people.

    Raises:
        UsageError: The prompt alone fills the context.
    """
    room = context - prompt
    if room < 1:
        raise UsageError(
            "PHI3-U042",
            f"the messages have {prompt} tokens and {bound} {context} tokens",
            where="messages",
            fix=f"shorten the messages to at most {context - 1} tokens",
        )
    return min(request.wanted_tokens or default, room)


def completion(
    request: ChatRequest, answers: Sequence[Answer], *, prompt_tokens: int, model: str
) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text},
                "logprobs": logprobs_content(answer.logprobs) if request.logprobs else None,
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ],
        "usage": usage(prompt_tokens, sum(answer.tokens for answer in answers)),
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts; the prompt is counted once, however many answers it has."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def logprobs_content(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities as the API has them."""
    return {
        "content": [
            _logprob(item.token, item.logprob)
            | {"top_logprobs": [_logprob(token, value) for token, value in item.top]}
            for item in logprobs
        ],
        "refusal": None,
    }


def new_id() -> str:
    """A fresh id of a completion."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def _logprob(token: bytes, logprob: float) -> dict[str, Any]:
    # JSON knows no infinity; OpenAI says -9999.0 for "very unlikely".
    value = logprob if math.isfinite(logprob) else -9999.0
    return {"token": token.decode(errors="replace"), "logprob": value, "bytes": list(token)}
