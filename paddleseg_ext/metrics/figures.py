"""How figures are written: NaN means that a figure has no value."""

from __future__ import annotations

import math


def or_none(value: float) -> float | None:
    """The figure for JSON, which knows no NaN."""
    return None if math.isnan(value) else value


def shown(value: float) -> str:
    """The figure for a line of the log: "0.7512", or "-"."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def percent(value: float) -> str:
    """The figure for a table: "75.12", or "-"."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
