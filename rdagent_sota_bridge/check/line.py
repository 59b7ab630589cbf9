"""One line of a check, and how it came out; without pandas, for what is said before a set is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rdagent_sota_bridge.errors import BridgeError, FactorFileError

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


def worst(lines: Iterable[Line]) -> State:
    """Return the worst state of some lines; `pass` of none."""
    states: tuple[State, ...] = ("pass", "warn", "fail")
    return max((line.state for line in lines), key=states.index, default="pass")


def at_most(line: Line, most: State) -> Line:
    """Return a line with a state no worse than that."""
    if worst([line, Line("", most, "")]) == most:
        return line
    return replace(line, state=most, fix=line.fix if most != "pass" else "")


def lines_of(error: BridgeError, name: str = "set") -> list[Line]:
    """Return an error as failed lines: one a fault of a factor file, or else one of that name."""
    if isinstance(error, FactorFileError):
        return [Line("set", "fail", f"{error.path}: {fault.fact}", fault.fix) for fault in error.failures]
    return [Line(name, "fail", f"{error.fact} ({error.place})", error.fix)]
