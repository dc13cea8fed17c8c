"""Text in Markdown: whatever it holds, it is shown and never obeyed."""

from __future__ import annotations

import html
import re

_MARKS = re.compile(r"[\\`*|\[\]~]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word marks nothing


def md(text: object) -> str:
    """A text as a cell of a table or a line of a list; lines of its own become `<br>`."""
    escaped = html.escape(str(text), quote=False)
    return "<br>".join(_MARKS.sub(r"\\\g<0>", line) for line in escaped.splitlines())
