"""A checkpoint that answers chats, in the shape of OpenAI's chat completions."""

from collections.abc import Mapping
from typing import Any

from mlflow_phi3.azure.safety import ContentSafety
from mlflow_phi3.serving.local import Checkpoint, LocalModel, Prompt
from mlflow_phi3.serving.protocol import completion, parse_request
from mlflow_phi3.serving.rows import check_rows


class Chat:
    """Answers requests one after the other.

    Args:
        checkpoint: What answers.
        name: What the model calls itself when a request names none.
        default_max_tokens: Length of an answer when the request names none.
        safety: Asked about every question and answer; None asks nobody.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str,
        default_max_tokens: int,
        safety: ContentSafety | None = None,
    ) -> None:
        self._name = name
        self._safety = safety
        self._model = LocalModel(checkpoint, default_max_tokens=default_max_tokens)

    def answer(self, requests: list[dict[str, Any]]) -> Any:
        """A completion for one request, a list of them for several.

        Raises:
            UsageError: Before anything is generated: a request is not one, its messages fill the
                context, or content safety refuses them.
            AzureError: Content safety gives no verdict.
        """
        replies = [self._complete(prompt) for prompt in check_rows(requests, self._prepare)]
        return replies[0] if len(replies) == 1 else replies

    def _prepare(self, body: Mapping[str, Any]) -> Prompt:
        prompt = self._model.prepare(parse_request({**body, "stream": False}))
        if self._safety:
            messages = prompt.request.to_messages()
            self._safety.check_prompt(message.content for message in messages)
        return prompt

    def _complete(self, prompt: Prompt) -> dict[str, Any]:
        request, reply = prompt.request, self._model.answer(prompt)
        answer = completion(
            request,
            reply.answers,
            prompt_tokens=reply.prompt_tokens,
            model=request.model or self._name,
        )
        return self._safety.filter(answer) if self._safety else answer
