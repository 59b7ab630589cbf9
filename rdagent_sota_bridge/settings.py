"""The environment variables of the package: declared once, with the text that the README shows."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

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


def _error_mode(value: object) -> object:
    if str(value).strip().lower() not in ("fail", "baseline"):
        raise ValueError("expected fail or baseline")
    return str(value).strip().lower()


Switch = Annotated[bool, BeforeValidator(switch)]
ErrorMode = Annotated[Literal["fail", "baseline"], BeforeValidator(_error_mode)]


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
        description="The switch. `true` trains every model on the factors of `SOTA_WORKSPACE_PATH`.",
    )
    workspace_path: str | None = Field(
        default=None,
        validation_alias="SOTA_WORKSPACE_PATH",
        description="The factor workspace (the folder that holds `combined_factors_df.parquet`) or that file "
        "itself; relative to the current folder.",
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
    on_error: ErrorMode = Field(
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
        f"{name} has an unknown value: {value!r}",
        f"environment variable or .env entry {name}",
        f"{expected}; then start again",
    )
