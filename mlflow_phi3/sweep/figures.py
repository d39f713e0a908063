"""The figures of a study's report, as plotly draws them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mlflow_phi3.evaluation.notation import NONE, show_figure
from mlflow_phi3.sweep.results import SweepResult, TrialResult, show_value

INK, GRID = "#1f2430", "#e6e8ee"
# Each at least three times as light or dark as paper, and as the night's ground once turned over.
WINNER, COMPLETE, PRUNED, FAILED = "#d1495b", "#2a6f97", "#8794a3", "#8d6a9f"
_COLOURS = {"complete": COMPLETE, "pruned": PRUNED, "failed": FAILED}
_FEW = 6  # values of a parameter that are each named on its axis
_LONGEST = 14  # letters of a value on an axis
_SCALE = [[0.0, WINNER], [0.4, FAILED], [1.0, PRUNED]]
_BUTTONS = {"bgcolor": "rgba(0,0,0,0)", "color": PRUNED, "activecolor": INK}
# A loss so many times as far behind the best as the median is would flatten all the others.
_FAR = 8
_HIGHER = "▲: higher still"
# Pixels below which labels run into each other: of a legend, a panel, a vertical axis.
_LEGEND_WIDTH, _PANEL_WIDTH, _PARALLEL_WIDTH = 480, 220, 120


def draw_history(trials: Sequence[TrialResult]) -> go.Figure | None:
    """Loss by number, and the best so far as a step line; a trial without a loss is a cross."""
    known = [trial for trial in trials if not math.isnan(trial.loss)]
    if not known or len(trials) < 2:
        return None
    edge = _edge([trial.loss for trial in known])
    figure = _figure("trial", _loss_title(edge))
    lost = [trial for trial in trials if trial.state == "failed" and math.isnan(trial.loss)]
    for state, colour in _COLOURS.items():
        some = [trial for trial in known if trial.state == state]
        if some:
            _add_trials(figure, [trial.number for trial in some], some, edge, colour, name=state)
    top = max(min(trial.loss, edge) for trial in known)
    if lost:
        figure.add_scatter(
            x=[trial.number for trial in lost],
            y=[top] * len(lost),
            mode="markers",
            name="failed, no loss",
            marker={"color": FAILED, "size": 9, "symbol": "x"},
            text=[describe(trial) for trial in lost],
            hovertemplate="%{text}<extra></extra>",
        )
    complete = [trial for trial in known if trial.state == "complete"]
    best = [min(t.loss for t in complete[: index + 1]) for index in range(len(complete))]
    figure.add_scatter(
        x=[trial.number for trial in complete],
        y=[min(loss, edge) for loss in best],
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
    edge = _edge([trial.loss for trial in complete])
    figure = make_subplots(cols=len(result.costs), shared_yaxes=True, horizontal_spacing=0.06)
    for column, cost in enumerate(result.costs, start=1):
        for name, colour, on_front in (("others", PRUNED, False), ("front", WINNER, True)):
            some = [trial for trial in complete if (trial.number in result.front) == on_front]
            some.sort(key=lambda trial: trial.costs[cost])
            heights = [trial.loss for trial in some]
            figure.add_scatter(
                x=[trial.costs[cost] for trial in some],
                y=[min(loss, edge) for loss in heights],
                # Seen against one of several costs, the front is no line.
                mode="lines+markers" if on_front and len(result.costs) == 1 else "markers",
                line={"shape": "hv", "width": 1.5},
                marker={"color": colour, "size": 9, "symbol": _symbols(heights, edge)},
                name=name,
                showlegend=column == 1,
                text=[describe(trial) for trial in some],
                hovertemplate=f"%{{text}}<br>{cost} %{{x:.4g}}<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title=cost, row=1, col=column)
    figure.update_yaxes(title=_loss_title(edge), col=1)
    _dress(figure)
    return figure


def draw_curves(curves: Mapping[int, Mapping[int, float]], result: SweepResult) -> go.Figure | None:
    """Validation loss by epoch of every trial; the winner's on top.

    Args:
        curves: Losses by trial and the number of the evaluation.
        result: What came of the study.
    """
    if not curves:
        return None
    by_number = {trial.number: trial for trial in result.trials}
    edge = _edge([loss for points in curves.values() for loss in points.values()])
    figure = _figure("epoch", _loss_title(edge))
    figure.update_xaxes(dtick=1)
    winner = result.winner.number
    for number in sorted(curves, key=lambda number: number == winner):
        if number not in by_number:
            continue
        trial = by_number[number]
        an_epoch = trial.spec.evaluations_per_epoch
        points = {evaluation / an_epoch: loss for evaluation, loss in curves[number].items()}
        won = number == winner
        figure.add_scatter(
            x=list(points),
            y=[min(loss, edge) for loss in points.values()],
            mode="lines+markers",
            name=f"{trial.name}{' (winner)' if won else ''}",
            line={
                "color": WINNER if won else _COLOURS.get(trial.state, PRUNED),
                "width": 3 if won else 1.5,
            },
            marker={"size": 7 if won else 5, "symbol": _symbols(points.values(), edge)},
            showlegend=won,
            text=[
                f"{describe(trial)}<br>epoch {epoch:.3g}: {show_figure(loss)}"
                for epoch, loss in points.items()
            ],
            hovertemplate="%{text}<extra></extra>",
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
    figure.update_layout(height=144 + 46 * len(names))
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
    """One line a complete trial through its parameters to its loss, red where it is low."""
    complete = [trial for trial in trials if trial.state == "complete"]
    names = _varied(complete)
    if len(complete) < 2 or not names:
        return None
    edge = _edge([trial.loss for trial in complete])
    losses = [min(trial.loss, edge) for trial in complete]
    of_loss: dict[str, Any] = {"label": "validation loss", "values": losses}
    if edge < math.inf:
        low, below = min(losses), max(loss for loss in losses if loss < edge)
        ticks = [low + (below - low) * step / 4 for step in range(5)]
        told = [*map(show_figure, ticks), "higher"]
        of_loss |= {"tickvals": [*ticks, edge], "ticktext": told}
    axes = [_axis(name, [trial.params[name] for trial in complete]) for name in names]
    figure = go.Figure(
        go.Parcoords(
            line={"color": losses, "colorscale": _SCALE, "showscale": False},
            dimensions=[*axes, of_loss],
            labelfont={"size": 12},
        )
    )
    figure.update_layout(
        height=450,
        margin={"l": 90, "r": 70, "t": 90, "b": 30},  # the labels stay below the buttons
        title={
            "text": "Red lines have a low loss, grey ones a high one.",
            "font": {"size": 13},
            "x": 0,
            "y": 0.97,
        },
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
    edge = _edge([trial.loss for trial in known])
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = make_subplots(rows=rows, cols=columns, shared_yaxes=True, horizontal_spacing=0.06)
    for index, name in enumerate(names):
        row, column = index // columns + 1, index % columns + 1
        values = [trial.params.get(name) for trial in known]
        axis = _flat_axis(values)
        # Numbers that are named each count as words.
        places = [_word(value) for value in values] if axis.get("type") == "category" else values
        colours = [_COLOURS.get(trial.state, PRUNED) for trial in known]
        _add_trials(figure, places, known, edge, colours, at={"row": row, "col": column})
        figure.update_xaxes(title=name, row=row, col=column, **axis)
    figure.update_yaxes(title=_loss_title(edge), col=1)
    _dress(figure)
    figure.update_layout(height=120 + 280 * rows)
    return figure


def least_width(figure: go.Figure) -> int:
    """Pixels that a figure needs, so that its labels do not run into each other."""
    first = figure.data[0]
    if isinstance(first, go.Parcoords):
        needed = _PARALLEL_WIDTH * len(first.dimensions)
    else:
        needed = _PANEL_WIDTH * len({axis.domain for axis in figure.select_xaxes()})
    return max(_LEGEND_WIDTH, needed)


def describe(trial: TrialResult) -> str:
    """A trial in a tooltip."""
    params = "<br>".join(
        f"{name} {show_value(value)}" for name, value in sorted(trial.params.items())
    )
    return f"<b>{trial.name}</b> {trial.state}<br>{params}<br>loss {show_figure(trial.loss)}"


def _varied(trials: Sequence[TrialResult]) -> list[str]:
    names = sorted({name for trial in trials for name in trial.params})
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]


def _add_trials(
    figure: go.Figure,
    x: Sequence[Any],
    trials: Sequence[TrialResult],
    edge: float,
    colour: str | Sequence[str],
    *,
    name: str = "",
    at: Mapping[str, int] | None = None,
) -> None:
    """A point each, on the edge where its loss lies above it."""
    losses = [trial.loss for trial in trials]
    figure.add_scatter(
        x=list(x),
        y=[min(loss, edge) for loss in losses],
        mode="markers",
        name=name,
        showlegend=bool(name),
        marker={"color": colour, "size": 9, "symbol": _symbols(losses, edge)},
        cliponaxis=False,
        text=[describe(trial) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
        **(at or {}),
    )


def _edge(losses: Sequence[float]) -> float:
    """The height at which losses are drawn that lie far above the others; infinity without such."""
    known = sorted(loss for loss in losses if not math.isnan(loss))
    if not known:
        return math.inf
    best, median = known[0], known[(len(known) - 1) // 2]
    highest = best + _FAR * (median - best)
    if median == best or known[-1] <= highest:
        return math.inf
    shown = max(loss for loss in known if loss <= highest)
    return shown + 0.1 * (shown - best)


def _loss_title(edge: float) -> str:
    return "validation loss" + (f" ({_HIGHER})" if edge < math.inf else "")


def _symbols(losses: Iterable[float], edge: float) -> list[str]:
    return ["triangle-up" if loss > edge else "circle" for loss in losses]


def _flat_axis(values: Sequence[Any]) -> dict[str, Any]:
    """A horizontal axis: by ratio for what spans decades, by rank for a few words or counts."""
    if _spans_decades(values):
        return {"type": "log"}
    if len(set(values)) > _FEW or any(isinstance(value, float) for value in values):
        return {}
    words = _order(values)
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": words,
        "tickvals": words,
        "ticktext": [_shorten(word) for word in words],
    }


def _order(values: Sequence[Any]) -> list[str]:
    """The different values as words: numbers by size, what is mixed by letter."""
    try:
        return [_word(value) for value in sorted(set(values))]
    except TypeError:
        return sorted({_word(value) for value in values})


def _word(value: object) -> str:
    return NONE if value is None else show_value(value)


def _shorten(word: str) -> str:
    """The beginning and the end of a long word: lists of modules begin alike."""
    return word if len(word) <= _LONGEST else f"{word[:7]}…{word[-6:]}"


def _axis(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A vertical axis: by ratio for what spans decades, by rank for words."""
    if any(isinstance(value, str | bool) for value in values):
        words = _order(values)
        places = [words.index(_word(value)) for value in values]
        return {
            "label": name,
            "values": places,
            "tickvals": [*range(len(words))],
            "ticktext": [_shorten(word) for word in words],
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
        margin={"l": 70, "r": 30, "t": 48, "b": 60},
        font=_font(),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"bgcolor": "white", "font": _font()},
        modebar=_BUTTONS,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    # Plotly's own labels of small numbers are 117µ, which nobody writes of a rate.
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True, exponentformat="e")
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)


def _font() -> dict[str, Any]:
    return {"family": "system-ui, sans-serif", "size": 13, "color": INK}
