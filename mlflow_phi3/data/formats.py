"""What a row looks like: detected from its keys, or named; turned into messages."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mlflow_phi3.config.parse import nearest
from mlflow_phi3.data.findings import printable, show
from mlflow_phi3.data.validate import Problem
from mlflow_phi3.errors import DataError

_MISSING = {"nan", "NaN", "NULL", "null", "None", "N/A", "n/a", "<NA>", "#N/A"}
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A row on its way to a conversation.

    Args:
        messages: Unchecked, as ``messages`` of a chat row.
        label: The class, as text, before cleaning; it is the last message too.
        extra: Keys that were not used.
        problem: Why the row cannot be one.
        emptied: Which missing-value markers were taken for empty, in words; empty for none.
    """

    messages: object = None
    label: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    problem: Problem | None = None
    emptied: str = ""


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write rows.

    Args:
        name: As ``format=`` names it.
        needs: Groups of keys; a row has one key of each.
        may: Groups of keys that are used where they are.
        convert: Builds the draft from the found keys (group's first name to the row's key).
        roles: What each group is taken for, in words.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    may: tuple[tuple[str, ...], ...]
    convert: Callable[[Mapping[str, object]], Draft]
    roles: Mapping[str, str]

    def find(self, keys: Iterable[str]) -> dict[str, str] | None:
        """The row's key for each group, or None when one that is needed is missing."""
        known = _by_name(keys)
        found = {}
        for group in (*self.needs, *self.may):
            match = _match(group, known)
            if match is not None:
                found[group[0]] = match
            elif group in self.needs:
                return None
        return found


@dataclass(frozen=True, slots=True)
class Reader:
    """A format together with the keys of one source.

    Args:
        format: The format.
        keys: The source's key for each of the format's groups.
        others: The source's other keys.
        missing_is_empty: Take texts such as ``NaN`` for empty, as cells of tables mean them.
    """

    format: Format
    keys: Mapping[str, str]
    others: tuple[str, ...] = ()
    missing_is_empty: bool = True

    @property
    def taken(self) -> str:
        """What was taken for what, in words."""
        parts = [f"{key} as {self.format.roles[group]}" for group, key in self.keys.items()]
        if self.others:
            parts.append(f"kept aside: {', '.join(self.others)}")
        return printable("; ".join(parts))

    def read(self, row: object) -> Draft:
        """Turn a row into a draft."""
        if not isinstance(row, dict):
            text = f"the row is {show(row)}; expected an object"
            return Draft(problem=Problem("PHI3-D003", text))
        keys = self._keys_of(row)
        found = {group: row[key] for group, key in keys.items() if not _is_null(row.get(key))}
        for group in self.format.needs:
            if keys[group[0]] not in row:
                text = f"no {keys[group[0]]!r} among {show(sorted(map(str, row)))}"
                return Draft(problem=Problem(_absent_code(self.format), text))
        used = set(keys.values())
        extra = {key: value for key, value in row.items() if key not in used}
        emptied = ""
        if self.missing_is_empty and self.format.name not in ("chat", "sharegpt"):
            marked = {group: value for group, value in found.items() if _is_marker(value)}
            emptied = ", ".join(
                f"{show(value)} as {keys[group]}" for group, value in marked.items()
            )
            found = {group: value for group, value in found.items() if group not in marked}
        draft = self.format.convert(found)
        return Draft(draft.messages, draft.label, extra, draft.problem, emptied)

    def _keys_of(self, row: Mapping[str, object]) -> Mapping[str, str]:
        """The source's keys as the row writes them, and those that its first rows did not have."""
        if row.keys() == {*self.others, *self.keys.values()}:
            return self.keys
        known = _by_name(row)
        late = {
            group[0]: match
            for group in self.format.may
            if group[0] not in self.keys and (match := _match(group, known)) is not None
        }
        own = {
            group: key if key in row else known.get(_fold(key), key)
            for group, key in self.keys.items()
        }
        return own | late


def _by_name(keys: Iterable[str]) -> dict[str, str]:
    return {_fold(key): key for key in keys}


def _fold(key: str) -> str:
    return key.strip().lower()


def _match(group: Iterable[str], known: Mapping[str, str]) -> str | None:
    """The first name of ``group`` that is known, as it is written."""
    return next((known[name] for name in group if name in known), None)


def detect(rows: Iterable[object], *, name: str, wanted: str, missing_is_empty: bool) -> Reader:
    """The reader for a source.

    Args:
        rows: Its first rows.
        name: The source, for errors.
        wanted: A format's name, or ``auto``.
        missing_is_empty: See :class:`Reader`.

    Raises:
        DataError: No format fits, or several do.
    """
    keys: list[str] = []  # as they are: the readers look them up
    for row in rows:
        if isinstance(row, dict):
            keys += [key for key in row if key not in keys]
    if not keys:  # nothing to go by: let each row say what is wrong with it
        return Reader(FORMATS["chat"], {"messages": "messages"})
    if wanted != "auto":
        found = FORMATS[wanted].find(keys)
        if found is None:
            raise _unfit(FORMATS[wanted], keys, name)
        return _reader(FORMATS[wanted], found, keys, missing_is_empty=missing_is_empty)
    fitting = [(way, found) for way in FORMATS.values() if (found := way.find(keys)) is not None]
    # A list of messages cannot be meant as anything else; what stands beside it is kept aside.
    whole = [pair for pair in fitting if pair[0].name in ("chat", "sharegpt")]
    fitting = whole or fitting
    if len(fitting) == 1:
        return _reader(*fitting[0], keys, missing_is_empty=missing_is_empty)
    if not fitting:
        raise _unknown(keys, name)
    raise DataError(
        "PHI3-D032",
        f"the keys {_listed(keys)} fit {' and '.join(way.name for way, _ in fitting)}",
        where=name,
        fix=f"set format={fitting[0][0].name}, or the other",
    )


def _reader(
    way: Format, found: dict[str, str], keys: Iterable[str], *, missing_is_empty: bool
) -> Reader:
    others = tuple(key for key in keys if key not in found.values())
    return Reader(way, found, others, missing_is_empty)


def _unknown(keys: list[str], name: str) -> DataError:
    known = sorted({key for way in FORMATS.values() for group in way.needs for key in group})
    close = [match for key in keys if (match := nearest(key, known))]
    hint = f"; did you mean {close[0]!r}" if close else ""
    return DataError(
        "PHI3-D032",
        f"no known format has the keys {_listed(keys)}{hint}",
        where=name,
        fix=f"rename them to {'; '.join(_needs(way) for way in FORMATS.values())}",
    )


def _unfit(way: Format, keys: list[str], name: str) -> DataError:
    return DataError(
        "PHI3-D033",
        f"format={way.name} needs {_needs(way)}; there are {_listed(keys)}",
        where=name,
        fix="rename the columns or set format=auto",
    )


def _needs(way: Format) -> str:
    return ", ".join("/".join(group) for group in way.needs)


def _listed(keys: list[str]) -> str:
    return printable(", ".join(keys[:20]))


def _absent_code(way: Format) -> str:
    return "PHI3-D019" if way.name == "text-label" else "PHI3-D006"


def _is_null(value: object) -> bool:
    # NaN is what pandas writes for null.
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_marker(value: object) -> bool:
    return isinstance(value, str) and value.strip() in _MISSING


def _chat(found: Mapping[str, object]) -> Draft:
    return Draft(_with_system(found.get("system"), found.get("messages")))


def _sharegpt(found: Mapping[str, object]) -> Draft:
    turns = found.get("conversations")
    if not isinstance(turns, list):
        return Draft(turns)
    messages: list[object] = []
    for turn in turns:
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            messages.append(turn)
            continue
        speaker = turn["from"]
        role = _SPEAKERS.get(speaker.lower(), speaker) if isinstance(speaker, str) else speaker
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        messages.append({**others, "role": role, "content": turn["value"]})
    return Draft(_with_system(found.get("system"), messages))


def _alpaca(found: Mapping[str, object]) -> Draft:
    instruction, given = found.get("instruction", ""), found.get("input", "")
    if not isinstance(given, str):
        return Draft(problem=Problem("PHI3-D010", f"input is {show(given)}"))
    if isinstance(instruction, str) and given.strip():
        instruction = f"{instruction}\n\n{given}"
    return _exchange(found.get("system"), instruction, found.get("output", ""))


def _prompt(found: Mapping[str, object]) -> Draft:
    prompt, completion = found.get("prompt", ""), found.get("completion", "")
    if isinstance(prompt, list) and isinstance(completion, list):
        return Draft(_with_system(found.get("system"), [*prompt, *completion]))
    return _exchange(found.get("system"), prompt, completion)


def _question(found: Mapping[str, object]) -> Draft:
    return _exchange(found.get("system"), found.get("question", ""), found.get("answer", ""))


def _label(found: Mapping[str, object]) -> Draft:
    label = found.get("label")
    if label is None or (isinstance(label, str) and not label.strip()):
        return Draft(problem=Problem("PHI3-D019", "the row has no label"))
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # a table with a gap holds its whole numbers as floats
    if not isinstance(label, str | int):
        return Draft(problem=Problem("PHI3-D019", f"the label is {show(label)}; expected text"))
    text = str(label).strip()
    return Draft(_exchange(None, found.get("text", ""), text).messages, text)


def _exchange(system: object, question: object, answer: object) -> Draft:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return Draft(_with_system(system, messages))


def _with_system(system: object, messages: object) -> object:
    """The messages behind the system message of a key of its own, unless they begin with it."""
    blank = system is None or (isinstance(system, str) and not system.strip())
    first = {"role": "system", "content": system}
    if blank or not isinstance(messages, list) or messages[:1] == [first]:
        return messages
    return [first, *messages]


_SYSTEM = ("system", "system_prompt")
FORMATS: Mapping[str, Format] = {
    way.name: way
    for way in (
        Format(
            "chat",
            (("messages",),),
            (_SYSTEM,),
            _chat,
            {"messages": "messages", "system": "system"},
        ),
        Format(
            "sharegpt",
            (("conversations", "conversation"),),
            (_SYSTEM,),
            _sharegpt,
            {"conversations": "messages (from, value)", "system": "system"},
        ),
        Format(
            "alpaca",
            (("instruction",), ("output", "response")),
            (("input", "context"), _SYSTEM),
            _alpaca,
            {
                "instruction": "user",
                "input": "user, after the instruction",
                "output": "assistant",
                "system": "system",
            },
        ),
        Format(
            "prompt-completion",
            (("prompt",), ("completion", "response")),
            (_SYSTEM,),
            _prompt,
            {"prompt": "user", "completion": "assistant", "system": "system"},
        ),
        Format(
            "question-answer",
            (("question", "query"), ("answer", "response")),
            (_SYSTEM,),
            _question,
            {"question": "user", "answer": "assistant", "system": "system"},
        ),
        Format(
            "text-label",
            (("text",), ("label",)),
            (),
            _label,
            {"text": "user", "label": "label"},
        ),
    )
}
