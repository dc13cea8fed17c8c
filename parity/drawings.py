"""Charts of the HTML report as inline SVG; their colours are classes of `page_style`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from parity import policy

DECADES = (-17, 1)  # of the drift chart
COLOURS = 6  # of curves
LETTER = 7.6  # pixels that a bold letter of a chart takes, at most on average


def drift(points: Sequence[Mapping[str, Any]], *, width: int, label: str, ends: tuple[str, str]) -> str:
    """Errors along the network's depth: float64 as dots, float32 as a line over the reference's own as a band.

    Args:
        points: see `evidence.collect`.
        width: of the drawing, in pixels.
        label: what it shows, for a screen reader.
        ends: what the first and the last point are.
    """
    height, left, right, top, bottom = 300, 46, 10, 12, 34
    low, high = DECADES
    span = width - left - right

    def x(index: int) -> float:
        return left + span * (index + 0.5) / max(1, len(points))

    def y(error: float) -> float:
        exponent = min(max(math.log10(error), low), high) if error > 0 else low
        return top + (height - top - bottom) * (high - exponent) / (high - low)

    parts = [_open(width, height, label)]
    for decade in range(-15, high + 1, 3):
        at = y(10.0**decade)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">1e{decade}</text>')
    parts += _float32(points, x, y)
    limit = y(policy.RELATIVE)
    parts.append(f'<line class="limit" x1="{left}" x2="{width - right}" y1="{limit:.1f}" y2="{limit:.1f}"/>')
    parts.append(f'<text class="limit-text" x="{left + 4}" y="{limit - 5:.1f}">limit of float64: 1e-9</text>')
    first = next((index for index, point in enumerate(points) if not point["passed"]), None)
    if first is not None:
        parts += _first(points[first]["point"], x(first), width=width, top=top, bottom=height - bottom)
    for index, point in enumerate(points):
        error = point["error"] if point["error"] is not None else math.inf
        kind = "good" if point["passed"] else "bad"
        shown = "not comparable" if error == math.inf else f"{error:.1e}"
        title = f"<title>{escape(point['point'])} {escape(point['layer'])}: {shown}</title>"
        down = y(min(error, 10.0))
        parts.append(f'<circle class="{kind}" cx="{x(index):.1f}" cy="{down:.1f}" r="2.6">{title}</circle>')
    parts.append(f'<text x="{left}" y="{height - 10}">{escape(ends[0])}</text>')
    parts.append(
        f'<text x="{width - right}" y="{height - 10}" text-anchor="end">{escape(ends[1])} ({len(points)} points)</text>'
    )
    return "".join([*parts, "</svg>"])


def _float32(points: Sequence[Mapping[str, Any]], x: Any, y: Any) -> list[str]:
    known = [(index, point) for index, point in enumerate(points) if "port32" in point]
    if len(known) < 2:
        return []
    floor = policy.NUMERICS_FLOOR
    upper = [f"{x(i):.1f},{y(max(p['reference32'], floor) * policy.NUMERICS_RATIO):.1f}" for i, p in known]
    lower = [f"{x(i):.1f},{y(max(p['reference32'], floor) / policy.NUMERICS_RATIO):.1f}" for i, p in reversed(known)]
    line = [f"{x(i):.1f},{y(p['port32']):.1f}" for i, p in known]
    return [
        f'<polygon class="band" points="{" ".join(upper + lower)}"/>',
        f'<polyline class="single" points="{" ".join(line)}"/>',
    ]


def _first(name: str, at: float, *, width: int, top: int, bottom: int) -> list[str]:
    """A line at the first divergence, and its name on the side with more room; if it is too long, its end."""
    left_half = at < width / 2
    room = int((width - at if left_half else at) / LETTER) - 2
    shown = name if len(name) <= room else f"...{name[3 - room :]}"
    anchor, shift = ("start", 5) if left_half else ("end", -5)
    return [
        f'<line class="first" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>',
        f'<text class="first-text" x="{at + shift:.1f}" y="{bottom - 8}" text-anchor="{anchor}">{escape(shown)}</text>',
    ]


def curves(terms: Mapping[str, Mapping[str, Sequence[float]]], *, width: int, label: str) -> str:
    """Loss terms by step: the reference's as a broad line, the port's dashed on top of it.

    Args:
        terms: name -> `reference` and `port`, values by step.
        width: of the drawing, in pixels.
        label: what it shows, for a screen reader.
    """
    height, left, right, top, bottom = 240, 46, 10, 12, 34
    values = [value for term in terms.values() for side in ("reference", "port") for value in term[side]]
    steps = max((len(term[side]) for term in terms.values() for side in ("reference", "port")), default=0)
    if not values or steps < 2:
        return ""
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1.0

    def place(step: int, value: float) -> str:
        across = left + (width - left - right) * step / (steps - 1)
        return f"{across:.1f},{top + (height - top - bottom) * (high - value) / (high - low):.1f}"

    parts = [_open(width, height, label)]
    for share in (0.0, 0.5, 1.0):
        value = low + (high - low) * share
        at = place(0, value).partition(",")[2]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{left - 6}" y="{float(at) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for index, (name, term) in enumerate(terms.items()):
        for side in ("reference", "port"):
            line = " ".join(place(step, value) for step, value in enumerate(term[side]))
            title = f"<title>{escape(name)}, {side}</title>"
            parts.append(f'<polyline class="{side} term{index % COLOURS}" points="{line}">{title}</polyline>')
    parts.append(f'<text x="{left}" y="{height - 10}">step 1</text>')
    parts.append(f'<text x="{width - right}" y="{height - 10}" text-anchor="end">step {steps}</text>')
    return "".join([*parts, "</svg>"])


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg">'
    )
