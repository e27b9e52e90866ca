"""A page to look at: figures as a table, pictures as SVG written by hand, so that nothing needs to be installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from streams.backtest.files import whole_file

_WIDTH, _HEIGHT, _MARGIN = 460, 280, 46
_COLOURS = ("#1f6feb", "#d1495b", "#2a9d5c", "#8d6bd1", "#b7791f")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid "
    "#ddd}th:first-child,td:first-child{text-align:left}svg{margin:.5rem 1rem .5rem 0}text{font:11px sans-serif;"
    "fill:#444}h2{margin-top:2rem}"
)


@dataclass(frozen=True, slots=True)
class Band:
    """One forecast to draw: past values, then per step what came, the median, and bounds from wide to narrow."""

    title: str
    past: Sequence[float]
    actual: Sequence[float]
    median: Sequence[float]
    bounds: Sequence[tuple[Sequence[float], Sequence[float]]]


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page of parts that are HTML already."""
    with whole_file(path) as file:
        file.write(
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
            f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</html>\n"
        )


def table(head: str, rows: Mapping[str, Mapping[str, object]]) -> str:
    """Return a table of rows of figures; the columns are those of the first row."""
    columns = list(next(iter(rows.values()), {}))
    lines = ["".join(f"<th>{escape(name)}</th>" for name in (head, *columns))]
    for name, row in rows.items():
        lines.append(f"<td>{escape(name)}</td>" + "".join(f"<td>{_shown(row.get(key))}</td>" for key in columns))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def heading(text: str) -> str:
    """Return a heading."""
    return f"<h2>{escape(text)}</h2>"


def calibration_chart(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Return the share of buyers against the probability that was given; on the diagonal a model is calibrated."""
    points = [point for curve in curves.values() for point in curve]
    top = _above(max((max(x, y) for x, y, _ in points), default=1.0))
    lines = [_line([(0, 0), (top, top)], top, top, "#999", "stroke-dasharray='4 4'")]
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(_line([(x, y) for x, y, _ in curve], top, top, colour))
        for x, y, clicks in curve:
            px, py = _place(x, y, top, top)
            lines.append(
                f"<circle cx='{px:.1f}' cy='{py:.1f}' r='3' fill='{colour}'>"
                f"<title>{clicks} clicks: {x:.4f} → {y:.4f}</title></circle>"
            )
        lines.append(f"<text x='{_MARGIN + 10}' y='{24 + 15 * number}' style='fill:{colour}'>{escape(name)}</text>")
    return _svg(lines, top, top, "predicted probability", "share that ordered")


def forecast_chart(band: Band) -> str:
    """Return one forecast with its intervals, the past before it and what came."""
    steps, before = len(band.median), len(band.past)
    total = before + steps
    upper = [value for _, high in band.bounds[-1:] for value in high]
    top = _above(max((v for v in (*band.past, *band.actual, *band.median, *upper) if math.isfinite(v)), default=1.0))
    xs = [before + step for step in range(steps)]
    parts = []
    for shade, (low, high) in enumerate(band.bounds):
        edge = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(x, min(y, top), total, top) for x, y in edge))
        parts.append(f"<polygon points='{at}' fill='{_COLOURS[0]}' opacity='{0.12 + 0.14 * shade:.2f}'/>")
    parts.append(_line(list(enumerate(band.past)), total, top, "#777"))
    parts.append(_line(list(zip(xs, band.actual, strict=True)), total, top, "#111", "stroke-width='1.6'"))
    parts.append(_line(list(zip(xs, band.median, strict=True)), total, top, _COLOURS[0], "stroke-width='1.8'"))
    parts.append(f"<text x='{_MARGIN}' y='14'>{escape(band.title)}</text>")
    return _svg(parts, total, top, "buckets (forecast in blue: 80% and 95% intervals)", "units")


def _svg(parts: Sequence[str], right: float, top: float, below: str, beside: str) -> str:
    ticks = []
    for share in (0.0, 0.5, 1.0):
        x, y = _place(right * share, 0, right, top)
        ticks.append(f"<text x='{x:.0f}' y='{y + 15:.0f}' text-anchor='middle'>{right * share:.3g}</text>")
        x, y = _place(0, top * share, right, top)
        ticks.append(f"<text x='{x - 5:.0f}' y='{y + 4:.0f}' text-anchor='end'>{top * share:.3g}</text>")
    frame = (
        f"<rect x='{_MARGIN}' y='{_MARGIN // 2}' width='{_WIDTH - 2 * _MARGIN}' height='{_HEIGHT - 1.5 * _MARGIN:.0f}' "
        "fill='none' stroke='#ccc'/>"
    )
    names = (
        f"<text x='{_WIDTH / 2:.0f}' y='{_HEIGHT - 8}' text-anchor='middle'>{escape(below)}</text>"
        f"<text x='12' y='{_HEIGHT / 2:.0f}' text-anchor='middle' transform='rotate(-90 12 {_HEIGHT / 2:.0f})'>"
        f"{escape(beside)}</text>"
    )
    return f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img'>{frame}{''.join(ticks)}{names}{''.join(parts)}</svg>"


def _line(points: Sequence[tuple[float, float]], right: float, top: float, colour: str, more: str = "") -> str:
    # What is unknown leaves a gap.
    runs: list[list[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append("{:.1f},{:.1f}".format(*_place(x, min(y, top), right, top)))
        elif runs[-1]:
            runs.append([])
    shape = "<polyline points='{}' fill='none' stroke='{}' {}/>"
    return "".join(shape.format(" ".join(run), colour, more) for run in runs if run)


def _place(x: float, y: float, right: float, top: float) -> tuple[float, float]:
    wide, high = _WIDTH - 2 * _MARGIN, _HEIGHT - 1.5 * _MARGIN
    return _MARGIN + wide * x / right, _MARGIN / 2 + high * (1 - y / top)


def _above(value: float) -> float:
    """Return a round number above `value`."""
    if value <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 1.5, 2, 3, 5, 7.5, 10, 15) if step * size >= value * 1.02)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else escape(str(value))
    )
