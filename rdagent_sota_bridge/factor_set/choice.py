"""Which factors of a set are taken: names and shell patterns, against the names that are there."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from rdagent_sota_bridge.errors import ChoiceError


def chosen(
    names: Sequence[str], wanted: Sequence[str], excluded: Sequence[str], place: str
) -> tuple[str, ...]:
    """Return the factors that are wanted and not excluded, in the set's order.

    Args:
        names: The factors of the set.
        wanted: Names or shell patterns (`SOTA_FACTORS`); empty for all. A text that is a name is that name,
            whatever signs it holds.
        excluded: Names or shell patterns (`SOTA_FACTORS_EXCLUDE`).
        place: What a message calls the set.

    Raises:
        ChoiceError: if a text fits no name, or none is left.
    """
    kept = _fitting(names, wanted, "SOTA_FACTORS", place) if wanted else set(names)
    kept -= _fitting(names, excluded, "SOTA_FACTORS_EXCLUDE", place)
    if not kept:
        raise ChoiceError(
            f"No factor is left of the {len(names)} of the set",
            f"SOTA_FACTORS={','.join(wanted)} SOTA_FACTORS_EXCLUDE={','.join(excluded)}, {place}",
            f"leave one in; the set has {_shown(names)}",
        )
    return tuple(name for name in names if name in kept)


def _fitting(names: Sequence[str], texts: Sequence[str], variable: str, place: str) -> set[str]:
    fitting: set[str] = set()
    for text in texts:
        found = {text} & set(names) or {name for name in names if fnmatch.fnmatchcase(name, text)}
        if not found:
            near = difflib.get_close_matches(text, names, n=3) or _same_letters(text, names)
            fix = f"did you mean {' or '.join(near)}?" if near else f"the set has {_shown(names)}"
            what = (
                "has a pattern that fits no factor"
                if set(text) & set("*?[")
                else "names a factor that is not"
            )
            raise ChoiceError(f"{variable} {what} in the set: {text}", place, fix)
        fitting |= found
    return fitting


def _same_letters(text: str, names: Sequence[str]) -> list[str]:
    return (
        [name for name in names if text.casefold().strip("*") in name.casefold()][:3]
        if text.strip("*")
        else []
    )


def _shown(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
