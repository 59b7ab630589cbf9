"""Which fields of a factor file are its dates, its instruments and its factors, and how each is read.

A set is a table with a date and an instrument in each row, however it was written: as levels of pandas'
index or as plain columns, dates as timestamps, days or ISO text. What is not clear is refused.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason, refused, shortened
from rdagent_sota_bridge.factor_set.names import DATETIME, FEATURE, INSTRUMENT

_OTHER_NAMES = {DATETIME: "date", INSTRUMENT: "code"}
_EXAMPLES = 2
_ROW_NUMBER = re.compile(r"__index_level_\d+__")
_WITHOUT_IT = (
    "write the file without it: pq.read_table(file).replace_schema_metadata().to_pandas()"
    ".set_index(['datetime', 'instrument']).to_parquet(file); or copy it anew, if it is a copy"
)
# What pandas and Arrow raise on a description that is no JSON, or JSON of another form.
_UNDECODED = (
    *(pa.ArrowException, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Field:
    """One field of a file.

    Attributes:
        name: Parquet's name of it.
        parts: The parts of its name in pandas, its group first; none for a level without a name.
        position: Its position among the levels of pandas' index; None for a column.
        kind: Its Arrow type.
        key: What pandas calls it: a text, or a tuple of its parts.
    """

    name: str
    parts: tuple[str, ...]
    position: int | None
    kind: pa.DataType
    key: Any

    @property
    def label(self) -> str:
        """The name that the user knows: the last part that is not empty."""
        return next(filter(None, reversed(self.parts)), "")

    def __str__(self) -> str:
        return f"the {'column' if self.position is None else 'level'} {self.label}"


@dataclass(frozen=True)
class Layout:
    """What the fields of a file are.

    Attributes:
        levels: The fields of datetime and instrument.
        copies: Fields that must be equal to one of these two, row by row: that one, and the copy.
        factors: Parquet's names of the factors, by their names, in the file's order.
        understood: What is otherwise than RD-Agent writes it, in one line; empty for nothing.
    """

    levels: tuple[Field, Field]
    copies: tuple[tuple[Field, Field], ...]
    factors: dict[str, str]
    understood: str

    @property
    def each_row_once(self) -> str:
        """The code that keeps one row of each date and instrument of the frame `df`."""
        positions = [field.position for field in self.levels]
        if None not in positions:
            return "df[~df.index.duplicated()]"
        table = "df" if positions == [None, None] else "df.reset_index()"
        return f"{table}.drop_duplicates({[field.key for field in self.levels]})"


def understand(path: Path, schema: pa.Schema) -> Layout:
    """Return what the fields of a file are.

    Args:
        path: The file, for messages.
        schema: Its Arrow schema.

    Raises:
        FactorFileError: if dates, instruments or factors are missing, or are not clear; and if what pandas
            wrote of them can't be decoded.
    """
    try:
        described = (schema.pandas_metadata or {}).get("index_columns", [])
        header = schema.empty_table().to_pandas()
    except _UNDECODED as error:
        raise refused(path, Reason.DESCRIPTION, _WITHOUT_IT, examples=(shortened(error),)) from None
    # A program that took a column away, or doubled one, leaves pandas' description as it was.
    of_index = [name for name in described if isinstance(name, str) and schema.get_field_index(name) >= 0]
    labels = list(header.index.names) if of_index else []
    levels = [
        Field(name, _parts(label), position, schema.field(name).type, label)
        for position, (name, label) in enumerate(zip(of_index, labels, strict=True))
    ]
    others = [field for field in schema if field.name not in of_index]
    columns = [
        Field(field.name, _parts(label), None, field.type, label)
        for field, label in zip(others, header.columns, strict=True)
    ]
    numbers = [field for field in levels or columns if _is_row_number(field)]
    chosen, failures = [], []
    for name in (DATETIME, INSTRUMENT):
        found = _candidates(name, levels, columns)
        if found and (len(found) == 1 or _is_doubled(found)):
            chosen.append(found)
        else:
            failures.append(_doubtful(name, found) if found else _missing(name, levels, columns))
    if failures:
        raise FactorFileError(str(path), tuple(failures))
    taken = [field for found in chosen for field in found]
    if rest := [field for field in levels if field not in taken and field not in numbers]:
        names = [field.label for field in rest]
        fix = f"keep the levels datetime and instrument alone: df = df.reset_index({names}, drop=True)"
        raise refused(path, Reason.LAYOUT, fix, examples=tuple(names[:_EXAMPLES]))
    factors = [field for field in columns if field not in taken and field not in numbers]
    if not factors:
        fix = "name a file with at least one factor column"
        raise refused(path, Reason.NO_COLUMNS, fix, count=0)
    names = _factor_names(path, factors, header.columns.nlevels, is_bare=not of_index)
    fix = "rename one, or keep one: df.loc[:, ~df.columns.duplicated()]"
    counts = Counter(names).items()
    if twice := [Failure(Reason.DUPLICATE_NAME, fix, name, count) for name, count in counts if count > 1]:
        raise FactorFileError(str(path), tuple(twice))
    dates, instruments = (found[0] for found in chosen)
    copies = tuple((found[0], found[1]) for found in chosen if len(found) > 1)
    clauses = [
        *_of_levels((dates, instruments), copies),
        *(["the row number is left out"] if numbers else []),
        *_of_factors(names, factors, header.columns.nlevels),
    ]
    by_name = dict(zip(names, (field.name for field in factors), strict=True))
    return Layout((dates, instruments), copies, by_name, ", ".join(clauses))


def as_dates(values: Any) -> Any:
    """Return an Arrow array of days or ISO text as timestamps; another, or text that is no date, as it is."""
    values = as_plain_text(values)
    if pa.types.is_date(values.type):
        return values.cast(pa.timestamp("ms"))
    return _cast(values, pa.timestamp("ns")) if _is_text(values.type) else values


def as_text(values: Any) -> Any:
    """Return an Arrow array of UTF-8 bytes or of views as text; another, and text in categories, as it is."""
    is_category = pa.types.is_dictionary(values.type) and _is_text(values.type.value_type)
    return values if is_category else as_plain_text(values)


def as_plain_text(values: Any) -> Any:
    """Return an Arrow array as `as_text` does, and categories as their values."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    is_bytes = str(values.type).startswith(("binary", "large_binary", "fixed_size_binary", "string_view"))
    return _cast(values, pa.string()) if is_bytes else values


def as_numbers(values: Any) -> Any:
    """Return an Arrow array of booleans or decimals as float64, each the nearest; another as it is."""
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.string())  # Arrow's own way is off by the last bit
    elif not pa.types.is_boolean(values.type):
        return values
    return values.cast(pa.float64())


def day_of(value: Any) -> pd.Timestamp | None:
    """Return the day of a statistic of a level of dates; None for what is none."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    found = pd.to_datetime(text, errors="coerce", format="ISO8601")
    return None if pd.isna(found) else found


def date_failure(level: Field, values: Any) -> Failure:
    """Return the failure of a level that holds no dates, with the line of code that makes dates of them.

    Only where one reading is possible; else the form is left to the user: 02/01/2020 may be either month.
    """
    there = values.unique() if _is_text(values.type) else values.slice(0, _EXAMPLES)
    found = [one for one in there.to_pylist() if one is not None and not _is_iso(one)][:_EXAMPLES]
    of, first = f"df[{level.key!r}]", "" if level.position is None else "df = df.reset_index(); "
    text = "".join(map(str, found[:1]))
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    digits = text.removesuffix(".0") if is_number else text
    whole = f"{of}.astype('int64')" if pa.types.is_floating(values.type) else of
    form = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}.get(len(digits)) if digits.isdecimal() else None
    if form is not None:
        code = f"pd.to_datetime({whole}.astype(str), format={form!r})"
    elif is_number and len(units := _units(values)) == 1:
        code = f"pd.to_datetime({whole}, unit={units[0]!r})"
    elif re.match(r"\d{4}[-/.]\d", text):
        code = f"pd.to_datetime({of})"
    else:
        text_of = f"{of}.astype(str)" if is_number else of
        code = f"pd.to_datetime({text_of}, format='…'), with the form in which they are written"
    fix = f"convert them: {first}{of} = {code}"
    return Failure(Reason.NOT_DATES, fix, DATETIME, len(values), tuple(map(repr, found)))


def _units(values: Any) -> list[str]:
    """Return the units in which numbers are times since 1970 that lie between 1980 and 2060."""
    bounds = pc.min_max(values).as_py()
    low, high = (float(bounds[name] or 0) for name in ("min", "max"))
    day = {"D": 1.0, "s": 86400.0, "ms": 86400e3, "us": 86400e6, "ns": 86400e9}
    return [unit for unit, size in day.items() if low / size >= 3652 and high / size <= 32873]


# --- which field is what ---


def _parts(label: Any) -> tuple[str, ...]:
    """Return the parts of a name; parquet has names of two levels as text, such as `('feature', 'x')`."""
    if isinstance(label, str) and label.startswith("('"):
        try:
            found = ast.literal_eval(label)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that it may raise
            return (label,)
        label = found if isinstance(found, tuple) and len(found) == 2 else label
    return tuple(map(str, label)) if isinstance(label, tuple) else () if label is None else (str(label),)


def _candidates(name: str, levels: list[Field], columns: list[Field]) -> list[Field]:
    """Return the fields that may be a level; a level that pandas describes by its very name is it.

    A factor under `feature` may have any name: it is meant only where nothing else has it.
    """
    if exact := [field for field in levels if field.label == name]:
        return exact
    found = [field for field in (*levels, *columns) if field.label.lower() in (name, _OTHER_NAMES[name])]
    return [field for field in found if field.parts[0] != FEATURE] or found


def _is_doubled(found: list[Field]) -> bool:
    """Return True for one level that stands there twice, as groupby(...).rolling(...) leaves it."""
    return (
        len(found) == 2 and found[0].label == found[1].label and None not in (one.position for one in found)
    )


def _is_row_number(field: Field) -> bool:
    """Return True for an index without a name, also as another program writes it that knows no index."""
    is_nameless = not field.label if field.position is not None else _ROW_NUMBER.fullmatch(field.name)
    return bool(is_nameless) and pa.types.is_integer(field.kind)


def _missing(name: str, levels: list[Field], columns: list[Field]) -> Failure:
    fits = _may_be_date if name == DATETIME else _is_text
    near = [field for field in (*levels, *columns) if field.label and fits(_plain(field.kind))]
    near = [field for field in near if field.label not in (DATETIME, INSTRUMENT)]
    is_swapped = len(levels) == 2 and _is_text(_plain(levels[0].kind))
    order = [INSTRUMENT, DATETIME] if is_swapped else [DATETIME, INSTRUMENT]
    fix = f"name a level of the index {name}: df.index.names = {order}"
    if len(near) == 1 or not levels:
        how = "rename_axis(index" if near and near[0].position is not None else "rename(columns"
        label = near[0].label if len(near) == 1 else "…"
        fix = f"name it {name}: df = df.{how}={{{label!r}: {name!r}}})"
    has = f"levels {[field.label or None for field in levels]}" if levels else "no named levels"
    return Failure(Reason.NO_LEVEL, fix, name, examples=(f"an index with {has}",))


def _doubtful(name: str, found: list[Field]) -> Failure:
    columns = [field.key for field in found[1:] if field.position is None]
    levels = [field.position for field in found[1:] if field.position is not None]
    code = f"df = df.droplevel({levels})" if levels else f"df = df.drop(columns={columns})"
    if found[0].position is None and found[0].key in columns:
        code = "df = df.loc[:, ~df.columns.duplicated()]"
    examples = tuple(map(str, found[:_EXAMPLES]))
    return Failure(Reason.DOUBTFUL_LEVEL, f"keep one, such as {code}", name, len(found), examples)


def _factor_names(path: Path, factors: list[Field], nlevels: int, *, is_bare: bool) -> list[str]:
    """Return the factors' names of the two layouts: flat, or nested under `feature`."""
    if nlevels == 1:
        pairs = {field.parts[0] for field in factors if len(field.parts) == 2}
        is_nested = pairs == {FEATURE} and all(len(field.parts) == 2 for field in factors)
        # RD-Agent's file without pandas' description, and more.
        if is_bare and FEATURE in pairs and not is_nested:
            others = [field.name for field in factors if field.parts[0] != FEATURE or len(field.parts) != 2]
            fix = f"keep the columns of the group {FEATURE!r} alone: a label among the factors is look-ahead"
            raise refused(path, Reason.LAYOUT, fix, examples=tuple(others[:_EXAMPLES]))
        return [field.parts[1] if is_nested else _flat(field) for field in factors]
    groups = sorted({field.parts[0] for field in factors})
    if nlevels > 2 or groups != [FEATURE]:
        found = f"{nlevels} column levels, the first with {', '.join(groups[:3])}"
        fix = f"keep flat columns, or two levels of which the first is {FEATURE!r} throughout"
        raise refused(path, Reason.LAYOUT, fix, examples=(found,))
    return [field.parts[-1] for field in factors]


def _flat(field: Field) -> str:
    return field.parts[0] if len(field.parts) == 1 else field.name


# --- what was understood ---


def _of_levels(levels: tuple[Field, Field], copies: tuple[tuple[Field, Field], ...]) -> Iterator[str]:
    names = dict(zip((DATETIME, INSTRUMENT), levels, strict=True))
    if columns := [name for name, field in names.items() if field.position is None]:
        yield f"{' and '.join(columns)} {'are columns' if len(columns) > 1 else 'is a column'}"
    yield from (f"{name} is named {field.label}" for name, field in names.items() if field.label != name)
    yield from (f"the level {copy.label} stands there twice" for _, copy in copies)
    for what, field in zip(("dates", "instruments"), levels, strict=True):
        kind = _plain(field.kind)
        if pa.types.is_date(kind):
            yield f"{what} are days ({kind})"
        elif not _is_text(kind) and _is_text(as_plain_text(pa.array([], kind)).type):
            yield f"{what} are text as {kind}"
        elif what == "dates" and _is_text(kind):
            yield f"{what} are text"


def _of_factors(names: list[str], factors: list[Field], nlevels: int) -> Iterator[str]:
    if nlevels == 1 and names[0] != _flat(factors[0]):
        yield f"names of columns are written as {factors[0].name}"
    kinds = (("booleans are 0 and 1", pa.types.is_boolean), ("decimals are floats", pa.types.is_decimal))
    for what, fits in kinds:
        if found := [name for name, field in zip(names, factors, strict=True) if fits(field.kind)]:
            yield f"{what} ({'; '.join(found[:3])}{'; …' if len(found) > 3 else ''})"


# --- types ---


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _may_be_date(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _cast(values: Any, kind: pa.DataType) -> Any:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:  # bytes that are no text, text that is no date
        return values


def _is_iso(value: Any) -> bool:
    return isinstance(value, str) and pa.types.is_timestamp(as_dates(pa.array([value])).type)
