"""The environment variables of the package: declared once, with the text that the README shows."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import SettingsError

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


def switch(value: object) -> bool:
    """Return what a switch says: one of `TRUE_WORDS` or `FALSE_WORDS`, in any case.

    Raises:
        ValueError: for any other text. A typo must not read as "off".
    """
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(f"expected one of {', '.join(TRUE_WORDS)} or {', '.join(FALSE_WORDS)}")


def _one_of(words: Any) -> BeforeValidator:
    """Return what reads one word of a `Literal`, in any case; a ValueError lists them."""
    known: tuple[str, ...] = get_args(words)

    def read(value: object) -> str:
        word = str(value).strip().lower()
        if word not in known:
            raise ValueError(f"expected {' or '.join(known)}")
        return word

    return BeforeValidator(read)


def _entries(value: str) -> tuple[str, ...]:
    """Split a list of paths and URLs at the platform's separator."""
    return tuple(entry.strip() for entry in urls.split_list(value))


def path_entries(value: str) -> tuple[str, ...]:
    """Return the entries of a list of paths; a text that is a path as a whole is one, with its separators."""
    try:
        return (value,) if Path(value).expanduser().exists() else _entries(value)
    except (OSError, RuntimeError):  # too long for a path, or ~ of an unknown user
        return _entries(value)


def _path_list(value: object) -> object:
    if not all(_entries(str(value))):
        raise ValueError(
            f"an entry between the separators ({os.pathsep}) is empty; is a variable in it not set?"
        )
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


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(","))


def _name_list(value: object) -> object:
    if not all(_names(str(value))):
        raise ValueError("a name between the commas is empty")
    return str(value)


def _correlation(value: object) -> object:
    text = str(value).strip().lower()
    try:
        threshold = math.inf if text == "off" else float(text)
    except ValueError:
        threshold = math.nan
    if text != "off" and not 0 < threshold <= 1:
        raise ValueError("expected a number above 0 and up to 1, or off")
    return threshold


PathList = Annotated[str, BeforeValidator(_path_list)]
Folder = Annotated[str, BeforeValidator(_folder)]
NameList = Annotated[str, BeforeValidator(_name_list)]
Correlation = Annotated[float, BeforeValidator(_correlation)]
Switch = Annotated[bool, BeforeValidator(switch)]
VerdictWay = Literal["mended", "rdagent"]
ErrorMode = Literal["fail", "baseline"]

VERDICT_WAYS: tuple[str, ...] = get_args(VerdictWay)
"""The values of `SOTA_MODEL_VERDICT`."""


class Settings(BaseSettings):
    """What the user asked for. Read from the environment when a runner is built, never at import."""

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_ignore_empty=True,  # `SOTA_WORKSPACE_PATH=` in a .env file means "not set"
        extra="forbid",
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
        "itself; relative to the current folder, or a URL such as `s3://bucket/run`. Several, with `:` "
        "between them, are joined.",
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
    prepared_data: Switch = Field(
        default=False,
        validation_alias="SOTA_PREPARED_DATA",
        description="`true` keeps the data set that Qlib builds for the first model, for later ones to "
        "load: less time, for room on the disk. Not with Qlib in Docker.",
    )
    verdict_on_models: Annotated[VerdictWay, _one_of(VerdictWay)] = Field(
        default="mended",
        validation_alias="SOTA_MODEL_VERDICT",
        description="How `fin_model` gets the verdict on a model, with the switch on. `mended` shows the LLM "
        "RD-Agent's model prompt and counts an answer in either form; `rdagent` leaves RD-Agent's way, which "
        "accepts no model of an LLM that answers as asked.",
    )
    on_error: Annotated[ErrorMode, _one_of(ErrorMode)] = Field(
        default="fail",
        validation_alias="SOTA_ON_ERROR",
        description="`fail` stops the run when the factors can't be used; `baseline` warns and goes on "
        "without them.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment alone: RD-Agent's command line has loaded `.env` into it already."""
        return (env_settings,)

    @property
    def workspace_paths(self) -> tuple[str, ...]:
        """The entries of `SOTA_WORKSPACE_PATH`; empty where it is not set."""
        return () if self.workspace_path is None else path_entries(self.workspace_path)

    @property
    def log_paths(self) -> tuple[str, ...]:
        """The entries of `SOTA_LOG_PATH`; empty where it is not set."""
        return () if self.log_path is None else path_entries(self.log_path)

    @property
    def factor_patterns(self) -> tuple[str, ...]:
        """The entries of `SOTA_FACTORS`; empty where it is not set."""
        return () if self.factors is None else _names(self.factors)

    @property
    def excluded_patterns(self) -> tuple[str, ...]:
        """The entries of `SOTA_FACTORS_EXCLUDE`; empty where it is not set."""
        return () if self.factors_exclude is None else _names(self.factors_exclude)

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
        raise _settings_error(error.errors()[0]) from None


def misspelt_names() -> list[tuple[str, str]]:
    """Return variables of the environment that are nearly one of the settings, each with that setting."""
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    found = []
    for name in sorted(os.environ):
        near = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.88)
        if name not in names and near:
            found.append((name, near[0]))
    return found


def is_enabled() -> bool:
    """Return what `LOAD_SOTA_FROM_WORKSPACE` says, whatever the other variables hold.

    Switched off, RD-Agent has to behave as if the package were not there: a bad value elsewhere must not
    stop a run that never asked for the factors.

    Raises:
        SettingsError: if the switch itself has a value that means nothing.
    """
    name = "LOAD_SOTA_FROM_WORKSPACE"
    value = os.environ.get(name, "")
    if not value:
        return False
    try:
        return switch(value)
    except ValueError as error:
        raise _unknown_value(name, value, str(error)) from None


def _settings_error(detail: Any) -> SettingsError:
    return _unknown_value(
        str(detail["loc"][0]), str(detail["input"]), detail["msg"].removeprefix("Value error, ")
    )


def _unknown_value(name: str, value: str, expected: str) -> SettingsError:
    return SettingsError(
        f"{name} has an unknown value: {_without_secrets(value)!r}",
        f"environment variable or .env entry {name}",
        f"{expected}; then start again",
    )


def _without_secrets(value: str) -> str:
    """Return a list as it may be shown; nothing behind a URL's query, for who knows where that ends."""
    shown = []
    for entry in urls.split_list(value):
        is_url = urls.is_url(entry.strip())
        shown.append(urls.without_secrets(entry.strip()) if is_url else entry)
        if is_url and "?" in entry:
            break
    return os.pathsep.join(shown)
