"""Which factors of a set are taken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rdagent_sota_bridge.errors import ChoiceError
from rdagent_sota_bridge.factor_set.selection import chosen
from tests.frames import assert_survives_pickling

NAMES = ("mom_5", "mom_20", "Vol[5]", "vol*", "动量", "size")


def refused(wanted: Sequence[str], excluded: Sequence[str] = (), names: Sequence[str] = NAMES) -> ChoiceError:
    """Return the error of a choice that is refused; fail where it is not."""
    with pytest.raises(ChoiceError) as caught:
        chosen(names, wanted, excluded, "the set a.parquet")
    assert_survives_pickling(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("wanted", "excluded", "expected"),
    [
        ((), (), NAMES),
        (("size", "mom_5"), (), ("mom_5", "size")),
        (("size", "size", "s*"), (), ("size",)),
        (("mom_*",), (), ("mom_5", "mom_20")),
        (("mom_?",), (), ("mom_5",)),
        (("mom_[0-9]",), (), ("mom_5",)),
        (("[!m]*",), (), ("Vol[5]", "vol*", "动量", "size")),
        (("动*",), (), ("动量",)),
        (("*",), ("mom_*", "vol*"), ("Vol[5]", "动量", "size")),
        ((), ("size",), NAMES[:-1]),
        (("mom_*",), ("mom_5", "size"), ("mom_20",)),
    ],
)
def test_choice(wanted: tuple[str, ...], excluded: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Names and patterns take or leave factors, each once, in the set's order and not the user's."""
    assert chosen(NAMES, wanted, excluded, "a") == expected


@pytest.mark.parametrize("name", ["Vol[5]", "vol*"])
def test_a_name_is_that_name_whatever_signs_it_holds(name: str) -> None:
    """A text that is a factor's name is no pattern, in both variables."""
    names = (*NAMES, "Vol5", "volume")
    assert chosen(names, (name,), (), "a") == (name,)
    assert chosen(names, (), (name,), "a") == tuple(other for other in names if other != name)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("mom_10", "did you mean mom_20 or mom_5?"),
        ("MOM_20", "did you mean mom_20?"),
        ("SIZE*", "did you mean size?"),
        ("vOL[", "did you mean Vol[5]?"),
        ("turnover", "the set has mom_5, mom_20, Vol[5], vol*, 动量, size"),
        ("x?", "the set has mom_5, mom_20, Vol[5], vol*, 动量, size"),
    ],
)
@pytest.mark.parametrize("variable", ["SOTA_FACTORS", "SOTA_FACTORS_EXCLUDE"])
def test_text_that_fits_no_factor(variable: str, text: str, fix: str) -> None:
    """A text that fits none is refused with variable, text and set; near names are offered, in any case."""
    error = refused((text,)) if variable == "SOTA_FACTORS" else refused((), (text,))
    what = (
        "has a pattern that fits no factor"
        if "*" in text or "?" in text or "[" in text
        else "names a factor that is not"
    )
    assert error.fact == f"{variable} {what} in the set: {text}"
    assert error.place == "the set a.parquet"
    assert error.fix == fix


def test_one_wrong_text_among_right_ones() -> None:
    """Every text has to fit something, not only some of them."""
    assert refused(("mom_*", "none_such")).fact.endswith(": none_such")


def test_a_pattern_of_stars_alone_offers_no_name() -> None:
    """A lone star fits everything; where the set is empty it is refused without a guess."""
    assert refused(("*",), names=()).fix == "the set has "


@pytest.mark.parametrize(
    ("wanted", "excluded"), [((), ("*",)), (("mom_*",), ("mom_5", "mom_20")), (("size",), ("size",))]
)
def test_no_factor_left(wanted: tuple[str, ...], excluded: tuple[str, ...]) -> None:
    """A choice that leaves none is refused, with both variables as they stand and what the set has."""
    error = refused(wanted, excluded)
    assert error.fact == "No factor is left of the 6 of the set"
    assert error.place == (
        f"SOTA_FACTORS={','.join(wanted)} SOTA_FACTORS_EXCLUDE={','.join(excluded)}, the set a.parquet"
    )
    assert error.fix == f"leave one in; the set has {', '.join(NAMES)}"


def test_many_names_are_shortened() -> None:
    """Of a large set a message shows twelve names and the number of all."""
    names = [f"f{number:03d}" for number in range(158)]
    assert refused(("zzz",), names=names).fix == f"the set has {', '.join(names[:12])}, … (158 in all)"
    assert refused(("zzz",), names=names[:12]).fix == f"the set has {', '.join(names[:12])}"
