"""One line of a check: what was looked at, how it came out, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Line:
    """One line of `rdagent-sota check`.

    Attributes:
        name: What was looked at: lower case, the same in every run, such as `coverage`.
        state: How it came out.
        text: One sentence with the figures.
        fix: What to do about it; empty where it passed.
        figures: The figures behind the text, as JSON can hold them.
    """

    name: str
    state: State
    text: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        fix = f"; fix: {self.fix}" if self.fix else ""
        return f"{self.name}: {self.text}{fix}"


def worst(lines: list[Line]) -> State:
    """Return the worst state of some lines; `pass` of none."""
    states = {line.state for line in lines}
    return "fail" if "fail" in states else "warn" if "warn" in states else "pass"
