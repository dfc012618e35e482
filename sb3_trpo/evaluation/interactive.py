"""The figures of a summary as one HTML page that works without a network: hover for numbers, click to hide a line.

Nothing is computed here. Names are escaped, because plotly takes labels for HTML.
"""

import os
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_trpo.evaluation import captions
from sb3_trpo.evaluation.curves import Band, Look, looks
from sb3_trpo.evaluation.plots import GRAY, in_one_unit
from sb3_trpo.evaluation.statistics import Interval
from sb3_trpo.evaluation.summary import Summary
from sb3_trpo.files import write_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}
MARKERS = dict(
    zip("osD^vPX", ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x"), strict=True)
)
STYLE = "body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}p{max-width:80ch}"


def write_page(summary: Summary, path: str | os.PathLike[str], *, title: str = "Benchmark scores") -> None:
    """Write `page` to a file, whole or not at all."""
    write_text(path, page(summary, title=title))


def page(summary: Summary, *, title: str = "Benchmark scores") -> str:
    """A whole HTML document with plotly's script inside, about 5 MB."""
    sections = [
        ("Learning curves", captions.curves(summary), learning_curves(summary)),
        (
            "Learning curves by wall-clock",
            "The same against seconds of training.",
            learning_curves(summary, by_time=True),
        ),
    ]
    if summary.compared:
        scale = f"{captions.compared(summary)} Normalised: {captions.normalization(summary)}."
        sections += [
            ("Aggregates", f"{captions.AGGREGATES} {scale}", aggregates(summary)),
            ("Performance profiles", f"{captions.PROFILES} {scale}", performance_profiles(summary)),
        ]
    if summary.improvement:
        sections.insert(3, ("Probability of improvement", captions.improvement(summary), improvement(summary)))
    body = []
    for index, (heading, text, figure) in enumerate(sections):
        chart = figure.to_html(
            full_html=False,
            include_plotlyjs=index == 0,
            div_id=f"figure-{index}",  # the same page from the same numbers
            config={"displaylogo": False, "responsive": True},
        )
        body.append(f"<h2>{heading}</h2>\n<p>{escape(text)}</p>\n{chart}")
    end = captions.INTERVALS if summary.compared else f"{captions.compared(summary)} {captions.INTERVALS}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + f"\n<p>{escape(end)}.</p>\n</body></html>\n"
    )


def learning_curves(summary: Summary, *, by_time: bool = False) -> "Figure":
    """A panel for each environment, a line and a shade for each contestant; a name in the legend hides it in all."""
    from plotly.subplots import make_subplots

    n_columns = min(3, len(summary.environments))
    n_rows = -(-len(summary.environments) // n_columns)
    figure = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[escape(env) for env in summary.environments],
        vertical_spacing=0.35 / n_rows,
        horizontal_spacing=0.2 / n_columns,
    )
    styles, shown = looks(summary.contestants), set[str]()
    for index, env in enumerate(summary.environments):
        bands, xlabel = summary.curves[env], "environment steps"
        if by_time:
            bands, unit = in_one_unit(summary.curves_by_time[env])
            xlabel = f"training wall-clock, {unit}"
        cell = {"row": index // n_columns + 1, "col": index % n_columns + 1}
        for name in summary.contestants:
            if name in bands:
                _band(figure, name, bands[name], styles[name], name not in shown, cell)
                shown.add(name)
        figure.update_xaxes(title_text=xlabel, rangemode="tozero", **cell)
        figure.update_yaxes(title_text="episode return" if cell["col"] == 1 else None, **cell)
    return _finish(figure, height=130 + 320 * n_rows)


def aggregates(summary: Summary) -> "Figure":
    """A panel for each statistic, a row for each contestant."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        1,
        len(captions.STATISTICS),
        subplot_titles=list(captions.STATISTICS.values()),
        shared_yaxes=True,
        horizontal_spacing=0.04,
    )
    styles = looks(summary.contestants)
    for column, field in enumerate(captions.STATISTICS, start=1):
        values = {name: getattr(aggregate, field) for name, aggregate in summary.aggregates.items()}
        _intervals(figure, values, styles, {"row": 1, "col": column}, legend=column == 1)
        figure.update_xaxes(title_text=f"normalised score, {captions.BETTER[field]}", row=1, col=column)
    return _finish(figure, height=190 + 36 * len(summary.contestants))


def improvement(summary: Summary) -> "Figure":
    """A row for each contestant that the first is compared with."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 1)
    _intervals(figure, summary.improvement, looks(summary.contestants), {"row": 1, "col": 1}, legend=True)
    figure.update_xaxes(
        title_text=f"how likely a run of {escape(summary.contestants[0])} scores higher", range=[-0.03, 1.03]
    )
    figure.add_vline(x=0.5, line={"color": GRAY, "dash": "dash", "width": 1})
    return _finish(figure, height=170 + 36 * len(summary.improvement))


def performance_profiles(summary: Summary) -> "Figure":
    """A line and a shade for each contestant."""
    from plotly.subplots import make_subplots

    figure, styles = make_subplots(1, 1), looks(summary.contestants)
    for name, profile in summary.profiles.items():
        _band(figure, name, Band(summary.thresholds, *profile), styles[name], True, {"row": 1, "col": 1})
    figure.update_xaxes(title_text="normalised score τ")
    figure.update_yaxes(title_text="share of runs above τ", range=[-0.02, 1.02])
    return _finish(figure, height=450)


def _band(figure: "Figure", name: str, band: Band, look: Look, legend: bool, cell: Mapping[str, int]) -> None:
    from plotly.graph_objects import Scatter

    if np.isfinite(band.low).any():
        red, green, blue = (int(look.color[start : start + 2], 16) for start in (1, 3, 5))
        figure.add_trace(
            Scatter(
                x=[*band.steps, *band.steps[::-1]],
                y=[*band.high, *band.low[::-1]],
                fill="toself",
                fillcolor=f"rgba({red},{green},{blue},0.15)",
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                legendgroup=name,
                showlegend=False,
            ),
            **cell,
        )
    figure.add_trace(
        Scatter(
            x=band.steps.tolist(),
            y=band.mean.tolist(),
            name=escape(name),
            mode="lines" if len(band.steps) > 1 else "markers",
            line={"color": look.color, "dash": DASHES[look.dash], "width": 2.5},
            marker={"symbol": MARKERS[look.marker], "size": 9},
            legendgroup=name,
            showlegend=legend,
            text=[captions.interval(Interval(*ends)) for ends in zip(band.mean, band.low, band.high, strict=True)],
            hovertemplate="%{text}",
        ),
        **cell,
    )


def _intervals(
    figure: "Figure", values: Mapping[str, Interval], styles: Mapping[str, Look], cell: Mapping[str, int], legend: bool
) -> None:
    from plotly.graph_objects import Scatter

    for name, interval in values.items():
        value, low, high = map(float, interval)
        bar: dict[str, Any] = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]}
        figure.add_trace(
            Scatter(
                x=[value],
                y=[escape(name)],
                name=escape(name),
                mode="markers",
                marker={"color": styles[name].color, "symbol": MARKERS[styles[name].marker], "size": 11},
                error_x={**bar, "thickness": 2.5, "width": 6} if np.isfinite(low) else None,
                legendgroup=name,
                showlegend=legend,
                text=[captions.interval(interval)],
                hovertemplate="%{text}",
            ),
            **cell,
        )
    figure.update_yaxes(autorange="reversed", **cell)


def _finish(figure: "Figure", height: int) -> "Figure":
    figure.update_layout(
        template="plotly_white",
        height=height,
        hovermode="closest",
        margin={"l": 60, "r": 20, "t": 40, "b": 60},
        legend={"tracegroupgap": 2},
    )
    return figure
