"""The model's own chat template, as text with holes where the contents go.

A template is rendered once per *shape* (the roles in order) with placeholders for the contents.
What it wrote around them is then known to be the template's, and what a person wrote can never be
mistaken for it: a user who types ``<|end|>`` gets those seven characters, not the token.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, Protocol

from jinja2 import Template as Jinja
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlflow_phi3.data.findings import show
from mlflow_phi3.data.messages import Message, to_dicts
from mlflow_phi3.errors import DataError

HOLE = "\U0010ffff"  # a Unicode noncharacter: validation refuses it in content
_HOLE = re.compile(f"{HOLE}([0-9]+){HOLE}")
_LOOKED_FOR = " \n<think>x</think>\n<tool_call>\n "  # what templates are known to look for
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
Shape = tuple[tuple[str, bool], ...]


class ChatTokenizer(Protocol):
    """What this room needs of a transformers tokenizer."""

    chat_template: Any
    special_tokens_map: Any

    @property
    def backend_tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` within."""


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A tokenizer and its template as plain text, so that worker processes can rebuild them.

    Args:
        tokenizer: JSON of the ``tokenizers.Tokenizer``.
        template: Jinja text of the chat template.
        tokens: Names the template may use: ``bos_token``, ``eos_token`` and so on.
    """

    tokenizer: str
    template: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_tokenizer(cls, tokenizer: ChatTokenizer) -> "TemplateSource":
        """Take what is needed out of a transformers tokenizer.

        Raises:
            DataError: It has several templates, or none.
        """
        if not isinstance(tokenizer.chat_template, str):
            raise DataError(
                "PHI3-D023",
                f"the tokenizer's chat_template is {show(tokenizer.chat_template)}; expected one",
                fix="leave in tokenizer_config.json the one that the model is asked with",
            )
        tokens = {
            str(name): str(value)
            for name, value in dict(tokenizer.special_tokens_map).items()
            if isinstance(value, str)
        }
        return cls(
            tokenizer=str(tokenizer.backend_tokenizer.to_str()),
            template=tokenizer.chat_template,
            tokens=tokens,
        )

    @property
    def template_sha256(self) -> str:
        """SHA-256 of the Jinja text; equal to ``Base.template_sha256`` of the same model."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def sha256(self) -> str:
        """SHA-256 of everything here: equal sources give equal ids."""
        everything = json.dumps([self.tokenizer, self.template, sorted(self.tokens.items())])
        return hashlib.sha256(everything.encode()).hexdigest()


class Renderer:
    """Renders conversations as ``apply_chat_template`` does, and finds the template's own text."""

    def __init__(self, source: TemplateSource) -> None:
        self._source = source

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """The whole text, as the model's own template writes it.

        Args:
            messages: The conversation.
            prompt: End with the opening of an assistant's turn.

        Raises:
            DataError: The template refuses these messages.
        """
        try:
            return self._jinja.render(
                messages=to_dicts(messages), add_generation_prompt=prompt, **self._source.tokens
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise DataError(
                "PHI3-D023",
                f"the chat template cannot render these messages: {error}",
                fix="follow the order of roles that the model's template asks for",
            ) from error

    def skeleton(self, shape: Shape, *, prompt: bool) -> list[str | int]:
        """The template's text around the contents: text, message number, text, ...

        Args:
            shape: Role of each message, and whether it has content.
            prompt: End with the opening of an assistant's turn.

        Raises:
            DataError: The template refuses the shape, or leaves out an assistant's message.
        """
        messages = [
            Message(role, f"{HOLE}{number}{HOLE}" if filled else "")
            for number, (role, filled) in enumerate(shape)
        ]
        pieces = _HOLE.split(self.render(messages, prompt=prompt))
        found: list[str | int] = [
            int(piece) if place % 2 else piece for place, piece in enumerate(pieces)
        ]
        shown = {piece for piece in found if isinstance(piece, int)}
        for number, (role, filled) in enumerate(shape):
            if filled and role == "assistant" and number not in shown:
                raise DataError(
                    "PHI3-D023",
                    f"the chat template leaves out message {number + 1} ({role})",
                    fix="use a model whose template shows every turn",
                )
        return found

    def is_blind(self, shape: Shape, skeleton: Sequence[str | int], *, prompt: bool) -> bool:
        """Whether the template seems to write contents without a look at them."""
        messages = [Message(role, _LOOKED_FOR if filled else "") for role, filled in shape]
        try:
            return self.render(messages, prompt=prompt) == fill(skeleton, messages)
        except DataError:
            return False

    @cached_property
    def _jinja(self) -> Jinja:
        # The same environment as transformers' chat_template_utils, without its clock: a template
        # that writes today's date would render different data every day.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(
            value, ensure_ascii=False, **options
        )
        environment.globals["raise_exception"] = _refuse
        try:
            # {% generation %} marks the assistant's text for a loss mask; it writes nothing.
            return environment.from_string(_GENERATION.sub("", self._source.template))
        except TemplateError as error:
            raise DataError(
                "PHI3-D023",
                f"the chat template is not valid Jinja: {error}",
                fix="use an instruct checkpoint, which brings a template",
            ) from error


def fill(skeleton: Sequence[str | int], messages: Sequence[Message]) -> str:
    """The skeleton with the contents in its holes."""
    return "".join(
        messages[piece].content if isinstance(piece, int) else piece for piece in skeleton
    )


def shape_of(messages: Sequence[Message]) -> Shape:
    """What a template can branch on: the roles in order, and which contents are empty."""
    return tuple((message.role, bool(message.content)) for message in messages)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
