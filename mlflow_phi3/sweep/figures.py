"""The figures of a study's report, as plotly draws them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mlflow_phi3.sweep.results import SweepResult, TrialResult, show_value

INK, GRID = "#1f2430", "#e6e8ee"
WINNER, COMPLETE, PRUNED, FAILED = "#d1495b", "#2a6f97", "#b8c4d0", "#8d6a9f"
_COLOURS = {"complete": COMPLETE, "pruned": PRUNED, "failed": FAILED}
_FEW = 6  # values of a parameter that are each named on its axis
_SCALE = [[0.0, "#16425b"], [0.5, "#81a4cd"], [1.0, "#e3e9f1"]]
_BUTTONS = {"bgcolor": "rgba(0,0,0,0)", "color": GRID, "activecolor": INK}


def draw_history(trials: Sequence[TrialResult]) -> go.Figure | None:
    """Loss by number, and the best so far as a step line."""
    known = [trial for trial in trials if not math.isnan(trial.loss)]
    if not known:
        return None
    figure = _figure("trial", "validation loss")
    for state, colour in _COLOURS.items():
        some = [trial for trial in known if trial.state == state]
        if some:
            figure.add_scatter(
                x=[trial.number for trial in some],
                y=[trial.loss for trial in some],
                mode="markers",
                name=state,
                marker={"color": colour, "size": 9},
                text=[describe(trial) for trial in some],
                hovertemplate="%{text}<extra></extra>",
            )
    complete = [trial for trial in known if trial.state == "complete"]
    best = [min(t.loss for t in complete[: index + 1]) for index in range(len(complete))]
    figure.add_scatter(
        x=[trial.number for trial in complete],
        y=best,
        mode="lines",
        name="best so far",
        line={"color": WINNER, "width": 2, "shape": "hv"},
    )
    return figure


def draw_front(result: SweepResult) -> go.Figure | None:
    """Loss against each cost of the complete trials; those of the Pareto front stand out."""
    complete = [trial for trial in result.trials if trial.state == "complete"]
    if not result.costs or not complete:
        return None
    figure = make_subplots(cols=len(result.costs), shared_yaxes=True, horizontal_spacing=0.06)
    for column, cost in enumerate(result.costs, start=1):
        for name, colour, on_front in (("others", PRUNED, False), ("front", WINNER, True)):
            some = [trial for trial in complete if (trial.number in result.front) == on_front]
            some.sort(key=lambda trial: trial.costs[cost])
            figure.add_scatter(
                x=[trial.costs[cost] for trial in some],
                y=[trial.loss for trial in some],
                # Seen against one of several costs, the front is no line.
                mode="lines+markers" if on_front and len(result.costs) == 1 else "markers",
                line={"shape": "hv", "width": 1.5},
                marker={"color": colour, "size": 9},
                name=name,
                showlegend=column == 1,
                text=[describe(trial) for trial in some],
                hovertemplate=f"%{{text}}<br>{cost} %{{x:.4g}}<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title=cost, row=1, col=column)
    figure.update_yaxes(title="validation loss", col=1)
    _dress(figure)
    return figure


def draw_curves(curves: Mapping[int, Mapping[int, float]], result: SweepResult) -> go.Figure | None:
    """Validation loss by epoch of every trial; the winner's on top."""
    if not curves:
        return None
    by_number = {trial.number: trial for trial in result.trials}
    figure = _figure("epoch", "validation loss")
    figure.update_xaxes(dtick=1)
    winner = result.winner.number
    for number in sorted(curves, key=lambda number: number == winner):
        if number not in by_number:
            continue
        trial, points = by_number[number], curves[number]
        won = number == winner
        figure.add_scatter(
            x=list(points),
            y=list(points.values()),
            mode="lines+markers",
            name=f"{trial.name}{' (winner)' if won else ''}",
            line={
                "color": WINNER if won else _COLOURS.get(trial.state, PRUNED),
                "width": 3 if won else 1.5,
            },
            marker={"size": 7 if won else 5},
            showlegend=won,
            text=[describe(trial)] * len(points),
            hovertemplate="%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
        )
    return figure


def draw_importance(importance: Mapping[str, float]) -> go.Figure | None:
    """A bar a parameter: the share of the variance that it explains."""
    if not importance:
        return None
    names = list(importance)[::-1]
    shares = [importance[name] for name in names]
    figure = _figure("share of the loss's variance", "")
    figure.update_xaxes(tickformat=".0%", range=[0, max(1.0, *shares)])
    figure.update_layout(height=120 + 46 * len(names))
    figure.add_bar(
        x=shares,
        y=names,
        orientation="h",
        marker={"color": COMPLETE},
        text=[f"{share:.0%}" for share in shares],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    return figure


def draw_parallel(trials: Sequence[TrialResult]) -> go.Figure | None:
    """One line a complete trial through its parameters to its loss, dark where it is low."""
    complete = [trial for trial in trials if trial.state == "complete"]
    names = _varied(complete)
    if len(complete) < 2 or not names:
        return None
    losses = [trial.loss for trial in complete]
    axes = [_axis(name, [trial.params[name] for trial in complete]) for name in names]
    figure = go.Figure(
        go.Parcoords(
            line={"color": losses, "colorscale": _SCALE, "showscale": False},
            dimensions=[*axes, {"label": "validation loss", "values": losses}],
            labelfont={"size": 13},
        )
    )
    figure.update_layout(
        height=450,
        margin={"l": 90, "r": 70, "t": 90, "b": 30},  # the labels stay below the buttons
        font=_font(),
        modebar=_BUTTONS,
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def draw_slices(trials: Sequence[TrialResult]) -> go.Figure | None:
    """Loss against each parameter that varied."""
    known = [trial for trial in trials if not math.isnan(trial.loss) and trial.params]
    names = _varied(known)
    if not names:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = make_subplots(rows=rows, cols=columns, shared_yaxes=True, horizontal_spacing=0.06)
    for index, name in enumerate(names):
        row, column = index // columns + 1, index % columns + 1
        values = [trial.params.get(name) for trial in known]
        figure.add_scatter(
            x=values,
            y=[trial.loss for trial in known],
            mode="markers",
            marker={"color": [_COLOURS.get(t.state, PRUNED) for t in known], "size": 9},
            text=[describe(trial) for trial in known],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
            row=row,
            col=column,
        )
        if _spans_decades(values):
            axis: dict[str, Any] = {"type": "log"}
        else:
            reals = any(isinstance(value, float) for value in values)
            discrete = len(set(values)) <= _FEW and not reals
            axis = {"type": "category", "categoryorder": "category ascending"} if discrete else {}
        figure.update_xaxes(title=name, row=row, col=column, **axis)
    figure.update_yaxes(title="validation loss", col=1)
    _dress(figure)
    figure.update_layout(height=120 + 280 * rows)
    return figure


def describe(trial: TrialResult) -> str:
    """A trial in a tooltip."""
    params = "<br>".join(
        f"{name} {show_value(value)}" for name, value in sorted(trial.params.items())
    )
    return f"<b>{trial.name}</b> {trial.state}<br>{params}<br>loss {trial.loss:.4f}"


def _varied(trials: Sequence[TrialResult]) -> list[str]:
    names = sorted({name for trial in trials for name in trial.params})
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A vertical axis: by ratio for what spans decades, by rank for words."""
    if any(isinstance(value, str | bool) for value in values):
        words = sorted({str(value) for value in values})
        places = [words.index(str(value)) for value in values]
        return {
            "label": name,
            "values": places,
            "tickvals": [*range(len(words))],
            "ticktext": words,
        }
    if any(isinstance(value, float) for value in values):
        by_ratio = _spans_decades(values)
        heights = [math.log10(value) if by_ratio else float(value) for value in values]
        low, high = min(heights), max(heights)
        ticks = [low + (high - low) * step / 4 for step in range(5)]
        told = [show_value(10**tick if by_ratio else tick) for tick in ticks]
        return {"label": name, "values": heights, "tickvals": ticks, "ticktext": told}
    several = sorted(set(values))
    ticks_of_few = {"tickvals": several} if len(several) <= _FEW else {}
    return {"label": name, "values": list(values), **ticks_of_few}


def _spans_decades(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, float)]
    return bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > 4


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    _dress(figure)
    return figure


def _dress(figure: go.Figure) -> None:
    figure.update_layout(
        template="none",
        height=400,
        margin={"l": 70, "r": 30, "t": 24, "b": 60},
        font=_font(),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": "white", "font": _font()},
        modebar=_BUTTONS,
        legend={"orientation": "h", "y": 1.08, "x": 0},
    )
    # Plotly's own labels of small numbers are 117µ, which nobody writes of a rate.
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True, exponentformat="e")
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)


def _font() -> dict[str, Any]:
    return {"family": "system-ui, sans-serif", "size": 13, "color": INK}
