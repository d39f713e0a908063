"""How a model is served over HTTP."""

from typing import ClassVar, Literal

from pydantic import Field

from mlflow_phi3.config.base import Config


class ServeConfig(Config):
    """The server's limits."""

    described_in: ClassVar[str] = "docs/serving.md"

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` is all of them."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""

    serve_engine: Literal["transformers", "vllm"] = "transformers"
    """What generates: `transformers`, or `vllm`, which has to be installed and takes a merged
    model; then only `host` and `port` hold, and vLLM's own limits."""

    serve_device: str = "auto"
    """Torch device of the served model: `auto` takes a CUDA GPU when there is one, else the CPU."""

    serve_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format to compute in: `auto` is that of the weights, and `float32` where the weights
    are bfloat16 and the CPU has no instructions for it, which takes twice the memory."""

    default_max_tokens: int = Field(default=512, ge=1)
    """Tokens of an answer, at most, when the request names none."""

    max_waiting: int = Field(default=128, ge=1)
    """Requests that may be inside at once, answered or waiting; further ones get status 429."""

    cache_tokens: int = Field(default=16384, ge=256)
    """Tokens that the key-value cache holds on a CPU, for all requests together; a GPU takes what
    memory it has left."""

    stream_interval_ms: int = Field(default=20, ge=0, le=1000)
    """Milliseconds between two events of streamed text, at least, after the first; 0 sends every
    token by itself. Models that need longer for a token are not held up."""

    max_body_bytes: int = Field(default=1_000_000, ge=1000)
    """Largest request body, in bytes; a larger one gets status 413."""
