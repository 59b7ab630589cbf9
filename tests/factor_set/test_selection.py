"""Which factors of a set are taken: by name, and without those that say the same (against plain pandas)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.errors import ChoiceError
from rdagent_sota_bridge.factor_set import panel, selection
from rdagent_sota_bridge.factor_set.selection import Dropped, chosen, sampled_dates, to_drop
from tests.frames import assert_survives_pickling, factor_frame, write

# --- by name ---

NAMES = ("mom_5", "mom_20", "Vol[5]", "vol*", "动量", "size")
MANY = tuple(f"f{number:03d}" for number in range(158))


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


def refused(wanted: Sequence[str], excluded: Sequence[str] = (), names: Sequence[str] = NAMES) -> ChoiceError:
    """Return the error of a choice that is refused; fail where it is not."""
    with pytest.raises(ChoiceError) as caught:
        chosen(names, wanted, excluded, "the set a.parquet")
    assert_survives_pickling(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "names", "fix"),
    [
        ("mom_10", NAMES, "did you mean mom_20 or mom_5?"),
        ("MOM_20", NAMES, "did you mean mom_20?"),
        ("SIZE*", NAMES, "did you mean size?"),
        ("vOL[", NAMES, "did you mean Vol[5]?"),
        ("turnover", NAMES, "the set has mom_5, mom_20, Vol[5], vol*, 动量, size"),
        ("x?", NAMES, "the set has mom_5, mom_20, Vol[5], vol*, 动量, size"),
        ("*", (), "the set has "),
        ("zzz", MANY, f"the set has {', '.join(MANY[:12])}, … (158 in all)"),
        ("zzz", MANY[:12], f"the set has {', '.join(MANY[:12])}"),
    ],
)
@pytest.mark.parametrize("variable", ["SOTA_FACTORS", "SOTA_FACTORS_EXCLUDE"])
def test_a_text_that_fits_no_factor(variable: str, text: str, names: Sequence[str], fix: str) -> None:
    """Each text has to fit: refused with variable, text and set; near names are offered, in any case."""
    texts = (*names[:1], text)
    error = refused(texts, (), names) if variable == "SOTA_FACTORS" else refused((), texts, names)
    pattern = "has a pattern that fits no factor"
    what = pattern if set("*?[") & set(text) else "names a factor that is not"
    assert error.fact == f"{variable} {what} in the set: {text}"
    assert (error.place, error.fix) == ("the set a.parquet", fix)


@pytest.mark.parametrize(
    ("wanted", "excluded"), [((), ("*",)), (("mom_*",), ("mom_5", "mom_20")), (("size",), ("size",))]
)
def test_no_factor_left(wanted: tuple[str, ...], excluded: tuple[str, ...]) -> None:
    """A choice that leaves none is refused, with both variables as they stand and what the set has."""
    error = refused(wanted, excluded)
    assert error.fact == "No factor is left of the 6 of the set"
    variables = f"SOTA_FACTORS={','.join(wanted)} SOTA_FACTORS_EXCLUDE={','.join(excluded)}"
    assert error.place == f"{variables}, the set a.parquet"
    assert error.fix == f"leave one in; the set has {', '.join(NAMES)}"


# --- that say the same ---

DAYS = pd.bdate_range("2020-01-01", periods=20)
CODES = [f"SH6{number:05d}" for number in range(12)]


def dropped(
    frame: pd.DataFrame, folder: Path, threshold: float, sample: Sequence[int] | None = None
) -> list[Dropped]:
    """Return what is dropped of a frame in a file; `sample` holds positions of dates, None for the usual."""
    with panel.opened([write(frame, folder)]) as factors:
        dates = sampled_dates(factors) if sample is None else sample
        parts = [np.flatnonzero(factors.date_codes == date) for date in dates]
        rows = np.concatenate(parts)
        values = np.array([factors.read(column)[rows] for column in factors.columns], dtype=np.float32)
        ends = np.cumsum([0, *map(len, parts)])
        return to_drop(factors, values, [slice(*pair) for pair in itertools.pairwise(ends)], threshold)


def mean_correlation(one: pd.Series, other: pd.Series) -> float:
    """Return the mean daily |correlation| of two factors, day by day with pandas."""
    pair = pd.DataFrame({"x": one, "y": other}).dropna()
    days = [day for _, day in pair.groupby(level="datetime") if len(day) > 2]
    found = [
        abs(day["x"].corr(day["y"])) for day in days if day["x"].nunique() > 1 and day["y"].nunique() > 1
    ]
    return float(np.mean(found)) if found else float("nan")


def expected(frame: pd.DataFrame, threshold: float) -> list[tuple[str, str, float]]:
    """Return what has to be dropped: each factor that is as alike as that to an earlier one that is kept."""
    kept: list[str] = []
    gone = []
    for column in frame:
        values = ((earlier, mean_correlation(frame[earlier], frame[column])) for earlier in kept)
        alike = next((pair for pair in values if pair[1] >= threshold), None)
        if alike is None:
            kept.append(column)
        else:
            gone.append((column, *alike))
    return gone


@pytest.mark.parametrize("seed", range(3))
def test_against_pandas(tmp_path: Path, seed: int) -> None:
    """Mixed, flipped, sparse, tied and partly constant factors are dropped as pandas' own figures say."""
    random = np.random.default_rng(seed)
    base = factor_frame(["p", "q", "r"], days=DAYS, instruments=CODES, seed=seed)
    noise = factor_frame([f"n{number}" for number in range(6)], days=DAYS, instruments=CODES, seed=seed + 100)
    frame = pd.DataFrame(index=base.index)
    for number, weight in enumerate(random.uniform(0.05, 2, size=6)):
        sign = random.choice([-1, 1])
        frame[f"f{number}"] = sign * base.iloc[:, number % 3] + weight * noise.iloc[:, number]
    frame["tied"] = (frame["f0"] / 100).round()
    frame = frame.mask(random.random(frame.shape) < 0.2)
    frame.loc[DAYS[3:7], "f1"] = 0.1
    frame.loc[DAYS[5], "f2"] = np.nan
    frame = frame.sample(frac=0.9, random_state=seed)
    counts = []
    for threshold in (0.2, 0.5, 0.8, 0.95):
        found, wanted = dropped(frame, tmp_path, threshold), expected(frame, threshold)
        assert [(drop.column, drop.kept) for drop in found] == [drop[:2] for drop in wanted]
        assert [drop.correlation for drop in found] == pytest.approx([drop[2] for drop in wanted], abs=1e-9)
        counts.append(len(found))
    assert any(counts)


def frame_of(**columns: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    """Return a frame of columns that are made one after the other from those before, `x` and `y` at first."""
    frame = factor_frame(["x", "y"], days=DAYS, instruments=CODES)
    for name, column in columns.items():
        frame[name] = column(frame)
    return frame[list(columns)]


def later_half(frame: pd.DataFrame) -> Any:
    """Return which rows belong to the later half of the days."""
    return frame.index.get_level_values(0) >= DAYS[10]


def place(frame: pd.DataFrame) -> Any:
    """Return the position of each row's instrument."""
    return np.arange(len(frame)) % len(CODES)


def same(name: str, factor: float = 1.0, level: float = 0.0) -> Callable[[pd.DataFrame], Any]:
    """Return a maker of a multiple of a column."""
    return lambda frame: factor * (frame[name] + level)


def constant_where_both_have_values() -> pd.DataFrame:
    """Return factors one of which is constant where the other has values: rounding leaves a small spread."""
    frame = factor_frame(["a", "b"], days=DAYS, instruments=CODES)
    few = place(frame) < 4
    frame["b"] = frame["b"].where(later_half(frame), 3.3 * frame["a"]).mask(later_half(frame) & few)
    frame["a"] = frame["a"].mask(later_half(frame) & ~few, 0.0)
    return frame


EXACT = 3 / np.sqrt(10)
QUARTERS = pd.DataFrame(
    {"a": [1, 1, -1, -1] * 4, "b": [2, 1, -1, -2] * 4, "c": [3, 3, -3, -3] * 4},
    index=pd.MultiIndex.from_product([DAYS[:4], CODES[:4]], names=["datetime", "instrument"]),
)
ALIKE: dict[str, tuple[Callable[[], pd.DataFrame], float, list[tuple[str, str]]]] = {
    **{
        f"times {factor}": (
            lambda factor=factor: frame_of(z=same("x"), a=same("y"), b=same("z", factor, 5)),
            0.99,
            [("b", "z")],
        )
        for factor in (1.0, -1.0, -2.5, 1e-9, 1e9)
    },
    "the order of columns decides": (
        lambda: frame_of(b=same("x"), a=same("y"), z=same("x")),
        0.99,
        [("z", "b")],
    ),
    "signs that change by day do not cancel": (
        lambda: frame_of(a=same("x"), b=lambda frame: frame["a"] * np.where(later_half(frame), 1, -1)),
        0.99,
        [("b", "a")],
    ),
    "a chain": (
        lambda: frame_of(a=same("x"), b=lambda frame: frame["x"] + frame["y"], c=same("y")),
        0.5,
        [("b", "a")],
    ),
    "a chain from its middle": (
        lambda: frame_of(b=lambda frame: frame["x"] + frame["y"], a=same("x"), c=same("y")),
        0.5,
        [("a", "b"), ("c", "b")],
    ),
    "just the threshold": (lambda: QUARTERS, EXACT, [("b", "a"), ("c", "a")]),
    "just below the threshold": (lambda: QUARTERS, EXACT + 1e-6, [("c", "a")]),
    "a threshold of 1": (lambda: QUARTERS, 1.0, [("c", "a")]),
    "off": (lambda: frame_of(a=same("x"), b=same("x")), float("inf"), []),
    "one factor": (lambda: frame_of(a=same("x")), 1e-6, []),
    **{
        f"constant {value}": (
            lambda value=value: frame_of(a=same("x"), b=lambda _: value, c=lambda _: value),
            1e-6,
            [],
        )
        for value in (0.0, 0.1, 1 / 3, 123456.789)
    },
    "no common row": (
        lambda: frame_of(
            a=lambda frame: frame["x"].where(place(frame) >= 6),
            b=lambda frame: frame["x"].where(place(frame) < 6),
        ),
        1e-6,
        [],
    ),
    "two common rows a day": (
        lambda: frame_of(
            b=lambda frame: frame["x"].where(place(frame) < 6),
            c=lambda frame: frame["x"].where(place(frame) >= 4),
        ),
        1e-6,
        [],
    ),
    **{
        f"values of 1e{exponent}": (
            lambda exponent=exponent: frame_of(a=same("x"), b=same("y"), c=same("x", -1)) * 10.0**exponent,
            0.99,
            [("c", "a")],
        )
        for exponent in (-60, 80)
    },
    "a large level with a small spread": (
        lambda: frame_of(a=same("x"), b=same("y"), c=same("x")) / 1e4 + 1e8,
        0.99,
        [("c", "a")],
    ),
    "constant where both have values": (constant_where_both_have_values, 0.99, [("b", "a")]),
}


@pytest.mark.parametrize("what", ALIKE)
def test_what_is_dropped(tmp_path: Path, what: str) -> None:
    """The later of two factors that say the same goes, whatever sign, scale, gaps and rounding."""
    frame, threshold, gone = ALIKE[what]
    with np.errstate(over="ignore"):  # float32 is of the sample alone
        found = dropped(frame(), tmp_path, threshold)
    assert [(drop.column, drop.kept) for drop in found] == gone


@pytest.mark.parametrize("likely", [True, False])
def test_the_sample_alone_does_not_decide(tmp_path: Path, likely: bool) -> None:
    """Alike on the sampled days alone is kept; alike on all, and a little less on the sampled, is dropped."""
    frame = factor_frame(["a", "noise"], days=DAYS, instruments=CODES)
    sampled = frame.index.get_level_values(0).isin(DAYS[:5])
    noise = frame.pop("noise")
    weak, strong = (frame["a"] + weight * noise for weight in (0.45, 0.05))
    frame["b"] = np.where(sampled == likely, strong, weak)
    on_sample = mean_correlation(frame.loc[sampled, "a"], frame.loc[sampled, "b"])
    on_all = mean_correlation(frame["a"], frame["b"])
    threshold = (on_sample + on_all) / 2
    assert 0.01 < abs(on_sample - on_all) < 0.09
    assert (on_sample > threshold) is likely
    found = dropped(frame, tmp_path, threshold, sample=range(5))
    assert [drop.correlation for drop in found] == ([] if likely else [pytest.approx(on_all)])
    frame["b"] = frame["a"].where(~sampled)  # without a value on the sampled days it is compared all the same
    assert len(dropped(frame, tmp_path, 0.99, sample=range(5))) == 1


@pytest.mark.parametrize(
    ("cells", "number"), [(10**6, 20), (240, 20), (239, 19), (60, 5), (24, 2), (12, 1), (1, 1)]
)
def test_sampled_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int, number: int) -> None:
    """About as many rows as asked for, on ascending days from the first on; all, where there are no more."""
    monkeypatch.setattr(selection, "SAMPLE_CELLS", cells)
    with panel.opened([write(factor_frame(days=DAYS, instruments=CODES), tmp_path)]) as factors:
        dates = list(sampled_dates(factors))
    assert len(dates) == number
    assert dates == sorted(set(dates))
    assert dates[0] == 0
    assert number == 1 or dates[-1] == len(DAYS) - 1
    assert max(np.diff(dates), default=0) - min(np.diff(dates), default=0) <= 1
