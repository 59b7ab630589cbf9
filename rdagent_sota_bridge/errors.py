"""The errors of the package: each names the fact, the place and the fix, and survives pickling."""

from __future__ import annotations

import enum
import unicodedata
from dataclasses import dataclass
from pathlib import Path

OTHER_RELEASE = "use a release of RD-Agent that README.md names, or report this one"
"""The fix where RD-Agent has a shape that is not known."""


def is_shown(letter: str) -> bool:
    """Return False for what is not seen, commands a terminal, turns a line around or begins another one."""
    return letter.isprintable() or unicodedata.category(letter) == "Zs"  # the blanks of other scripts


def plural(count: int, what: str) -> str:
    """Write how many of something there are."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def short_digest(digest: str) -> str:
    """Return what is shown of a digest: its first ten hexadecimal digits."""
    return digest.removeprefix("sha256:")[:10]


def one_line(text: str) -> str:
    r"""Return a text from outside as one printable line: what is not shown becomes `\x1b` or `\u202e`."""
    return "".join(one if is_shown(one) else ascii(one)[1:-1] for one in text)


def shortened(text: object) -> str:
    """Return what a library says of an error in one line of at most 200 letters."""
    return " ".join(str(text).split())[:200]


class BridgeError(Exception):
    """Base of every error that a user can cause or fix; its text needs no traceback.

    Fact, place and fix are one printable line each, whatever names, paths and remote texts are in them.

    Args:
        fact: What is wrong, in one sentence.
        place: Where: a path, a variable, a column.
        fix: What to do about it.
    """

    def __init__(self, fact: str, place: str, fix: str) -> None:
        super().__init__(fact, place, fix)
        self.fact = one_line(fact)
        self.place = one_line(place)
        self.fix = one_line(fix)

    def __str__(self) -> str:
        return f"{self.fact}\n  where: {self.place}\n  fix:   {self.fix}"


class SettingsError(BridgeError):
    """A variable has a value that means nothing to the package."""


class LocateError(BridgeError):
    """No factor file is where the settings point."""


class WorkspaceNotFoundError(LocateError):
    """The path of the factor workspace does not exist."""


class FactorFileNotFoundError(LocateError):
    """The factor workspace exists, and holds no factor file."""


class RemoteError(LocateError):
    """What a URL names can't be read or written."""


class RemoteRefusedError(RemoteError):
    """The server behind a URL does not let this user read or write."""


class RemoteUnavailableError(RemoteError):
    """The server behind a URL can't be reached, or fails."""


class SessionError(LocateError):
    """A log folder's sessions can't be read, or lead to no factor set."""


class UntrustedSessionError(SessionError):
    """RD-Agent's loader refuses a session: it is not signed, or not with the key that is set."""


class NothingAcceptedError(SessionError):
    """The run's sessions can be read, and no factor loop of it was accepted."""


class BaseSetError(BridgeError):
    """The file of the base set is missing or malformed, or the base set is unknown."""


class UnknownBaseSetError(BaseSetError, SettingsError):
    """ALPHA_FACTORS names no base set and no file."""


class SeamError(BridgeError):
    """RD-Agent has a shape that the package does not know."""


class SourceError(BridgeError):
    """RD-Agent's source can't be patched, or the patch can't be taken out."""


class SetChangedError(BridgeError):
    """A run's factor set or base set is not the one that it began with."""


class ChoiceError(BridgeError):
    """SOTA_FACTORS or SOTA_FACTORS_EXCLUDE names a factor that is not there, or leaves none."""


class UnequalFactorError(BridgeError):
    """A factor is in two sets with different values."""


class MarketError(BridgeError):
    """Qlib's data of the market can't be read."""


class StoreError(BridgeError):
    """The copy of a factor set can't be written into the store, or placed in a model's workspace."""


class ResultError(BridgeError):
    """A back-test's results can't be read."""


class PredictError(BridgeError):
    """A model can't predict the days that were asked for, or not as it did before."""


class ReportError(BridgeError):
    """A report can't be made or written."""


class HandOffError(BridgeError):
    """The factors did not reach the model that RD-Agent trained."""


class FreshValuesError(BridgeError):
    """The values of a model's factors can't be made for new days, or are not those that it was trained on."""


class CompareError(BridgeError):
    """A factor set can't be compared with the base set alone."""


class BundleError(BridgeError):
    """A bundle of a model can't be made, is damaged, or does not fit what is here."""


class HoldoutError(BridgeError):
    """Days can't be kept back from a job, or not be opened."""


class JobError(BridgeError):
    """A job of `rdagent-sota run` can't be started or resumed."""


@enum.unique
class Reason(enum.Enum):
    """Why a factor file can't be trained on."""

    UNREADABLE = "the file can't be read"
    NOT_PARQUET = "the file is not parquet"
    DAMAGED = "the file is damaged or cut off"
    DESCRIPTION = "what pandas wrote into the file about its columns can't be decoded"
    NO_ROWS = "the file has no rows"
    NO_COLUMNS = "the file has no factor columns"
    NO_LEVEL = "an index level is missing"
    DOUBTFUL_LEVEL = "it is not clear which level or column is meant"
    LAYOUT = "the columns or levels have a layout that is not known"
    PARTS = "the folder does not hold the parts of one table"
    DUPLICATE_NAME = "a column name stands there twice"
    NOT_DATES = "the datetime level holds no dates"
    TIME_ZONE = "the datetime level carries a time zone"
    TIME_OF_DAY = "the datetime level has times of day that the market's calendar does not have"
    NOT_TEXT = "the instrument level holds no text"
    NULL_INDEX = "rows have no date or no instrument"
    DUPLICATE_ROW = "(datetime, instrument) rows stand there more than once"
    NOT_NUMERIC = "a column is not numeric"
    ALL_NAN = "a column is all NaN"
    INFINITE = "a column has infinite values"
    NO_INSTRUMENT = "none of the file's instruments is in the market"
    NO_TRAINING_DATE = "no date of the file is inside the training segment"
    NO_TRAINING_VALUE = "no factor has a value in the training segment of the market"
    LOW_COVERAGE = "too little of the market is filled in a segment"
    NO_MARKET_DAY = "the market has no trading day in a segment"
    CHANGED = "the file was changed while it was read"


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong with a factor file: what (a column or level, how many rows), and the fix."""

    reason: Reason
    fix: str
    column: str | None = None
    count: int | None = None
    examples: tuple[str, ...] = ()

    @property
    def fact(self) -> str:
        """What is wrong: reason, column, count, examples."""
        about = f" [{self.column}]" if self.column is not None else ""
        count = f", {self.count:,} in all" if self.count is not None else ""
        examples = f", such as {' and '.join(self.examples)}" if self.examples else ""
        return f"{self.reason.value}{about}{count}{examples}"

    def __str__(self) -> str:
        return f"{self.fact}; fix: {self.fix}"


class FactorFileError(BridgeError):
    """A factor file can't be trained on; `failures` lists every reason."""

    def __init__(self, path: str, failures: tuple[Failure, ...]) -> None:
        # The arguments of Exception are what pickling hands to __init__ again.
        Exception.__init__(self, path, failures)
        self.fact = "The factor file can't be used for training"
        self.place = one_line(path)
        self.fix = one_line(failures[0].fix)
        self.path = path
        self.failures = failures

    def __str__(self) -> str:
        faults = (one_line(f"  - {failure}") for failure in self.failures)
        return "\n".join([f"{self.fact}: {self.place}", *faults])


def refused(
    path: Path,
    reason: Reason,
    fix: str,
    column: str | None = None,
    count: int | None = None,
    examples: tuple[str, ...] = (),
) -> FactorFileError:
    """Return the error of a factor file with one fault."""
    return FactorFileError(str(path), (Failure(reason, fix, column, count, examples),))
