"""The environment variables of the package: declared once, with the text that the README shows."""

from __future__ import annotations

import difflib
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import SettingsError

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


def switch(value: object) -> bool:
    """Return what a switch says; ValueError for another word: a typo must not read as "off"."""
    word = str(value).strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(f"expected one of {', '.join(TRUE_WORDS)} or {', '.join(FALSE_WORDS)}")
    return word in TRUE_WORDS


def path_entries(value: str) -> tuple[str, ...]:
    """Return the entries of a list of paths; a text that is a path as a whole is one, with its separators."""
    try:
        if Path(value).expanduser().exists():
            return (value,)
    except (OSError, RuntimeError):  # too long for a path, or ~ of an unknown user
        pass
    return tuple(urls.split_list(value))


def _path_list(value: object) -> object:
    entries = urls.split_list(str(value))
    if not all(entries):
        raise ValueError(
            f"an entry between the separators ({os.pathsep}) is empty; is a variable in it not set?"
        )
    if any(map(urls.is_joined, entries)):
        raise ValueError("a URL stands alone, or with blanks between it and other entries")
    return str(value)


def _folder(value: object) -> object:
    if not str(value).strip():
        raise ValueError("the folder's name is blank")
    if urls.is_url(str(value)):
        raise ValueError("expected a folder of this machine, not a URL")
    try:
        Path(str(value)).expanduser()
    except RuntimeError:
        raise ValueError("~ names a user who is not known here; write the folder out") from None
    return str(value)


def _name_list(value: object) -> object:
    if not all(map(str.strip, str(value).split(","))):
        raise ValueError("a name between the commas is empty")
    return str(value)


def _correlation(value: object) -> object:
    text = str(value).strip().lower()
    if text == "off":
        return math.inf
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise ValueError("expected a number above 0 and up to 1, or off")


PathList = Annotated[str, BeforeValidator(_path_list)]
Folder = Annotated[str, BeforeValidator(_folder)]
NameList = Annotated[str, BeforeValidator(_name_list)]
Correlation = Annotated[float, BeforeValidator(_correlation)]
Switch = Annotated[bool, BeforeValidator(switch)]
AnyCase = BeforeValidator(lambda value: str(value).strip().lower())
VerdictWay = Literal["mended", "rdagent"]

VERDICT_WAYS: tuple[str, ...] = get_args(VerdictWay)
"""The values of `SOTA_MODEL_VERDICT`."""

REMOVED = "SOTA_PREPARED_DATA"
"""A setting of release 0.1.0's that may still stand in a `.env`: it gets a warning."""


class Settings(BaseSettings):
    """What the user asked for. Read from the environment when a runner is built, never at import."""

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_ignore_empty=True,  # `SOTA_WORKSPACE_PATH=` in a .env file means "not set"
        frozen=True,
    )

    enabled: Switch = Field(
        default=False,
        validation_alias="LOAD_SOTA_FROM_WORKSPACE",
        description="The switch. `true` trains every model on the factors of `SOTA_WORKSPACE_PATH` or "
        "`SOTA_LOG_PATH`.",
    )
    workspace_path: PathList | None = Field(
        default=None,
        validation_alias="SOTA_WORKSPACE_PATH",
        description="The factor workspace (the folder that holds `combined_factors_df.parquet`) or that file "
        "itself; relative to the current folder, or a URL such as `s3://bucket/run`. Several are "
        "joined: paths with `:` between them, URLs with blanks around them.",
    )
    log_path: PathList | None = Field(
        default=None,
        validation_alias="SOTA_LOG_PATH",
        description="A log folder of `fin_factor` or `fin_quant`: the set of its last *accepted* factor "
        "loop. `latest` is the newest log under `log/` that accepted one. Several are joined, as above.",
    )
    factors: NameList | None = Field(
        default=None,
        validation_alias="SOTA_FACTORS",
        description="The factors to take: names or shell patterns, commas between; all if not set.",
    )
    factors_exclude: NameList | None = Field(
        default=None,
        validation_alias="SOTA_FACTORS_EXCLUDE",
        description="The factors to leave out, written likewise.",
    )
    max_correlation: Correlation = Field(
        default=0.99,
        validation_alias="SOTA_MAX_CORRELATION",
        description="Of two factors whose mean daily cross-sectional correlation, without its sign, is at "
        "least this, the later is dropped; `off` keeps all.",
    )
    use_alpha_factors: Switch = Field(
        default=True,
        validation_alias="USE_ALPHA_FACTORS",
        description="Adds the base set; `false` trains on the mined factors alone.",
    )
    alpha_factors: str = Field(
        default="alpha22",
        validation_alias="ALPHA_FACTORS",
        description="The base set: `alpha20`, `alpha22`, `alpha158`, or a JSON or YAML file of name: Qlib "
        "expression. Not set, base features that you chose in RD-Agent itself are kept.",
    )
    store_path: Folder | None = Field(
        default=None,
        validation_alias="SOTA_STORE_PATH",
        description="The folder, relative to the current one, in which one copy of each factor set is kept, "
        "for the models' workspaces to link; best on their disk. Not set, `sota_store` beside RD-Agent's "
        "folder of workspaces.",
    )
    verdict_on_models: Annotated[VerdictWay, AnyCase] = Field(
        default="mended",
        validation_alias="SOTA_MODEL_VERDICT",
        description="How `fin_model` gets the verdict on a model, with the switch on. `mended` shows the LLM "
        "RD-Agent's model prompt and counts an answer in either form; `rdagent` leaves RD-Agent's way, which "
        "accepts no model of an LLM that answers as asked.",
    )
    fast_training: Switch = Field(
        default=True,
        validation_alias="SOTA_FAST_TRAINING",
        description="Takes a training's batches from memory, with the switch on: the same bits, sooner; "
        "`false` leaves Qlib's own loader and its `n_jobs` workers.",
    )
    on_error: Annotated[Literal["fail", "baseline"], AnyCase] = Field(
        default="fail",
        validation_alias="SOTA_ON_ERROR",
        description="`fail` stops the run when the factors can't be used; `baseline` warns and trains "
        "without them.",
    )

    @property
    def workspace_paths(self) -> tuple[str, ...]:
        """The entries of `SOTA_WORKSPACE_PATH`; empty where it is not set."""
        return path_entries(self.workspace_path) if self.workspace_path else ()

    @property
    def log_paths(self) -> tuple[str, ...]:
        """The entries of `SOTA_LOG_PATH`; empty where it is not set."""
        return path_entries(self.log_path) if self.log_path else ()

    @property
    def factor_patterns(self) -> tuple[str, ...]:
        """The entries of `SOTA_FACTORS`; empty where it is not set."""
        return tuple(map(str.strip, self.factors.split(","))) if self.factors else ()

    @property
    def excluded_patterns(self) -> tuple[str, ...]:
        """The entries of `SOTA_FACTORS_EXCLUDE`; empty where it is not set."""
        return tuple(map(str.strip, self.factors_exclude.split(","))) if self.factors_exclude else ()

    @property
    def alpha_factors_explicit(self) -> bool:
        """True if the user set `ALPHA_FACTORS`, rather than leaving its default."""
        return "alpha_factors" in self.model_fields_set


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: if a variable has a value that means nothing; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        detail = error.errors()[0]
        expected = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        raise _unknown_value(str(detail["loc"][0]), expected) from None


def misspelt_names() -> list[tuple[str, str]]:
    """Return variables of the environment that are nearly one of the settings, each with that setting."""
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    others = sorted(set(os.environ) - set(names))
    near = [(name, difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.88)) for name in others]
    return [(name, meant[0]) for name, meant in near if meant]


def is_enabled() -> bool:
    """Return what `LOAD_SOTA_FROM_WORKSPACE` says; a bad value elsewhere stops no run that has it off.

    Raises:
        SettingsError: if the switch itself has a value that means nothing.
    """
    name = "LOAD_SOTA_FROM_WORKSPACE"
    value = os.environ.get(name, "")
    try:
        return bool(value) and switch(value)
    except ValueError as error:
        raise _unknown_value(name, str(error)) from None


def _unknown_value(name: str, expected: str) -> SettingsError:
    value = os.environ[name]
    # Of a URL nothing is shown, for nobody knows where a password ends.
    shown = f"{value.partition('://')[0]}://{urls.HIDDEN}" if "://" in value else value
    return SettingsError(
        f"{name} has an unknown value: {shown!r}",
        f"environment variable or .env entry {name}",
        f"{expected}; then start again",
    )
