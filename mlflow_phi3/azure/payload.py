"""Inputs of ``predict`` as Azure's deployments take them, and back.

The scoring script of no-code deployments of MLflow models wants ``{"input_data": {"columns",
"index", "data"}}``; a chat is one row whose column ``messages`` holds the list. A serverless
endpoint takes the chat itself.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_phi3.errors import UsageError

_READY = "input_data"
# Bodies of MLflow's own scoring server, which people have at hand.
_SPLIT, _RECORDS = "dataframe_split", "dataframe_records"


def to_request(inputs: Any) -> dict[str, Any]:
    """Return the request body for inputs.

    Args:
        inputs: A chat (``{"messages": [...], ...}``), a list of chats or of records, a pandas
            frame, a list of values, or a whole body: with ``input_data``, ``dataframe_split`` or
            ``dataframe_records``; also as MLflow's command line reads these, with pandas.

    Raises:
        UsageError: None of these.
    """
    inputs = _unwrapped(inputs)
    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
        return _framed(_rejoined(to_plain(inputs.to_dict(orient="records"))))
    if isinstance(inputs, Mapping):
        return dict(inputs) if _READY in inputs else _framed([to_plain(inputs)])
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes) and inputs:
        if all(isinstance(row, Mapping) for row in inputs):
            is_chat = all({"role", "content"} <= row.keys() for row in inputs)
            return _framed([{"messages": to_plain(inputs)}] if is_chat else to_plain(inputs))
        return {_READY: to_plain(inputs)}
    raise UsageError(
        "PHI3-U718",
        f"cannot make a request of {type(inputs).__name__}",
        where="inputs",
        fix='give {"messages": [{"role": "user", "content": "..."}]}, a list of those, or a frame',
    )


def to_chat(inputs: Any) -> dict[str, Any]:
    """Return one chat request, from itself, from messages, or from what pandas made of it.

    Raises:
        UsageError: It is none.
    """
    framed = to_request(inputs)[_READY]
    rows = framed["data"] if isinstance(framed, Mapping) else []
    if len(rows) != 1 or "messages" not in framed["columns"]:
        raise UsageError(
            "PHI3-U748",
            "a serverless endpoint takes one chat at a time",
            where="inputs",
            fix='{"messages": [{"role": "user", "content": "..."}]}',
        )
    row = dict(zip(framed["columns"], rows[0], strict=True))
    return {name: value for name, value in row.items() if value is not None}


def to_plain(value: Any) -> Any:
    """JSON's own types for pandas' and NumPy's.

    What is missing is left out of objects, where pandas puts it for all that other rows have; in
    lists, whose places count, it is null.
    """
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        value = value.tolist()
    if isinstance(value, Mapping):
        plain = {str(name): to_plain(held) for name, held in value.items()}
        return {name: held for name, held in plain.items() if held is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_plain(held) for held in value]
    return None if _is_missing(value) else value


def alike(request: Mapping[str, Any]) -> list[tuple[list[int], dict[str, Any]]]:
    """Split a request by what its rows leave out, each part with the positions of its rows.

    A null in an optional column of whole numbers is refused by MLflow's schema; a column that is
    not there is not.
    """
    framed = request[_READY]
    if not isinstance(framed, Mapping) or not framed.get("columns") or not framed.get("data"):
        return [([0], dict(request))]
    columns = list(framed["columns"])
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(framed["data"]):
        given = tuple(n for n, value in enumerate(row) if value is not None)
        groups.setdefault(given, []).append(position)
    if len(groups) == 1 and len(next(iter(groups))) == len(columns):
        return [(next(iter(groups.values())), dict(request))]
    return [
        (
            positions,
            {
                _READY: {
                    "columns": [columns[n] for n in given],
                    "index": list(range(len(positions))),
                    "data": [[framed["data"][at][n] for n in given] for at in positions],
                }
            },
        )
        for given, positions in groups.items()
    ]


def joined(answers: Sequence[tuple[Sequence[int], Any]]) -> dict[str, Any]:
    """The prediction of all parts of :func:`alike`, each answer's rows at their positions."""
    if len(answers) == 1:
        return from_answer(answers[0][1])
    placed: dict[int, Any] = {}
    for positions, answer in answers:
        found = answer["predictions"] if isinstance(answer, Mapping) else answer
        placed.update(zip(positions, found if isinstance(found, list) else [found], strict=True))
    return {"predictions": [placed[position] for position in sorted(placed)]}


def from_answer(answer: Any) -> dict[str, Any]:
    """Return the prediction in an answer: a chat completion as it is, others under one key."""
    found = answer
    if isinstance(found, Mapping) and set(found) == {"predictions"}:
        found = found["predictions"]
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, Mapping) and "choices" in found:
        return dict(found)
    return dict(answer) if isinstance(answer, Mapping) else {"predictions": answer}


def _unwrapped(inputs: Any) -> Any:
    """Take the wrapping off a whole body, also off a frame that pandas made of one."""
    if hasattr(inputs, "columns") and list(inputs.columns) in ([_READY], [_SPLIT], [_RECORDS]):
        name = str(inputs.columns[0])
        held = inputs[name].to_dict()
        # A list's places become a range; an object's names stay.
        is_list = list(held) == list(range(len(held)))
        inputs = {name: to_plain(list(held.values()) if is_list else held)}
    if isinstance(inputs, Mapping) and _SPLIT in inputs:
        return {_READY: inputs[_SPLIT]}
    if isinstance(inputs, Mapping) and _RECORDS in inputs:
        return inputs[_RECORDS]
    return inputs


def _rejoined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Undo what pandas does to a chat when MLflow's command line reads it.

    One chat of two messages becomes two rows, with every scalar repeated.
    """
    if rows and all(isinstance(row.get("messages"), Mapping) for row in rows):
        return [{**rows[0], "messages": [row["messages"] for row in rows]}]
    return rows


def _framed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data = [[row.get(name) for name in columns] for row in rows]
    return {_READY: {"columns": columns, "index": list(range(len(rows))), "data": data}}


def _is_missing(value: Any) -> bool:
    # pandas' own two are known by name: to import pandas takes long, and who has them has it.
    if type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return value is None or (isinstance(value, float) and math.isnan(value))
