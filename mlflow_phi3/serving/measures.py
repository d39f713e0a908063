"""What a server counts, in Prometheus' text format (version 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class Histogram:
    """Durations in fixed buckets: memory does not grow with requests."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> list[str]:
        """The exposition of this histogram."""
        told, below = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*map(str, _SECONDS), "+Inf"), self.counts, strict=True):
            below += count
            told.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*told, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


@dataclass(slots=True)
class Measures:
    """Counts since the server started.

    Args:
        answered: Requests by HTTP status; 499 is a client that left.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens generated.
        inside: Requests that are being answered, or wait, now.
        first_token: Time to the first piece of streamed answers.
        duration: Time to the whole answer.
    """

    answered: Counter[int] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    inside: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)

    def to_text(self) -> str:
        """The page that Prometheus reads."""
        lines = ["# TYPE phi3_requests_total counter"]
        lines += [
            f'phi3_requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self.answered.items())
        ]
        for name, kind, value in (
            ("phi3_prompt_tokens_total", "counter", self.prompt_tokens),
            ("phi3_completion_tokens_total", "counter", self.completion_tokens),
            ("phi3_requests_inside", "gauge", self.inside),
        ):
            lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
        lines += self.first_token.lines("phi3_first_token_seconds")
        lines += self.duration.lines("phi3_request_seconds")
        return "\n".join(lines) + "\n"
