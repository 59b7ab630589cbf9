"""The environment variables of the package: declared once, with the text that docs/settings.md shows."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

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


def hook_trouble(said: str) -> SettingsError | None:
    """Return what is wrong with a value of RDAGENT_SOTA_BRIDGE; None for a word of a switch, and for none."""
    if not said.strip() or said.strip().lower() in TRUE_WORDS + FALSE_WORDS:
        return None
    return SettingsError(
        f"RDAGENT_SOTA_BRIDGE has an unknown value: {said.strip()!r}",
        "environment variable or .env entry RDAGENT_SOTA_BRIDGE",
        f"use one of {', '.join(FALSE_WORDS)} to turn the package off, or leave it out",
    )


def path_entries(value: str) -> tuple[str, ...]:
    """Return the entries of a list of paths; a text that is a path as a whole is one, with its separators."""
    try:
        if Path(value).expanduser().exists():
            return (value,)
    except (OSError, RuntimeError):  # too long for a path, or ~ of an unknown user
        pass
    return tuple(urls.split_list(value))


def _unquoted(value: object) -> object:
    text = str(value)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise ValueError(urls.UNQUOTE)
    return value


def _path_list(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    entries = urls.split_list(str(_unquoted(value)))
    if not all(entries):
        raise ValueError(
            f"an entry between the separators ({os.pathsep}) is empty; is a variable in it not set?"
        )
    if any(map(urls.is_joined, entries)):
        raise ValueError("a URL stands alone, or with blanks between it and other entries")
    return path_entries(str(value))


def _folder(value: object) -> object:
    if not str(value).strip():
        raise ValueError("the folder's name is blank")
    if (fix := urls.misread(str(value))) and not Path(str(value)).exists():
        raise ValueError(fix)
    if urls.is_url(str(value)):
        raise ValueError("expected a folder of this machine, not a URL")
    try:
        Path(str(value)).expanduser()
    except RuntimeError:
        raise ValueError("~ names a user who is not known here; write the folder out") from None
    return str(value)


def _name_list(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    names = tuple(map(str.strip, str(_unquoted(value)).split(",")))
    if not all(names):
        raise ValueError("a name between the commas is empty")
    return names


def _correlation(value: object) -> object:
    text = str(value).strip().lower()
    if text == "off":
        return math.inf
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise ValueError("expected a number above 0 and up to 1, or off")


PathList = Annotated[tuple[str, ...], BeforeValidator(_path_list)]
Folder = Annotated[str, BeforeValidator(_folder)]
NameList = Annotated[tuple[str, ...], BeforeValidator(_name_list)]
Correlation = Annotated[float, BeforeValidator(_correlation)]
Switch = Annotated[bool, BeforeValidator(switch)]
AnyCase = BeforeValidator(lambda value: str(value).strip().lower())
VerdictWay = Literal["mended", "rdagent"]

VERDICT_WAYS: tuple[str, ...] = get_args(VerdictWay)
"""The values of `SOTA_MODEL_VERDICT`."""

REMOVED = "SOTA_PREPARED_DATA"
"""A setting of release 0.1.0's that may still stand in a `.env`: it gets a warning."""

SWITCHES = ("LOAD_SOTA_FROM_WORKSPACE", "LOAD_SOTA_FROM_LOG")
PATHS = ("SOTA_WORKSPACE_PATH", "SOTA_LOG_PATH")

STAGE = "_RDAGENT_SOTA_STAGE"
"""The variable in which `rdagent-sota run` gives a stage what the stage is to take; see `stage_of_job`."""


class Settings(BaseModel):
    """What the user asked for. Read from the environment when a runner is built, never at import."""

    model_config = ConfigDict(frozen=True)

    enabled: Switch = Field(
        default=False,
        validation_alias="LOAD_SOTA_FROM_WORKSPACE",
        description="The switch. `true` trains every model on the factors of `SOTA_WORKSPACE_PATH` or "
        "`SOTA_LOG_PATH`.",
    )
    enabled_for_log: Switch = Field(
        default=False,
        validation_alias="LOAD_SOTA_FROM_LOG",
        description="The same switch, by the name that goes with `SOTA_LOG_PATH`: one of the two is enough.",
    )
    workspace_paths: PathList = Field(
        default=None,
        validate_default=True,
        validation_alias="SOTA_WORKSPACE_PATH",
        description="The factor workspace (the folder that holds `combined_factors_df.parquet`) or that file "
        "itself; relative to the current folder, or a URL such as `s3://bucket/run`. Several are "
        "joined: paths with `:` between them, URLs with blanks around them.",
    )
    log_paths: PathList = Field(
        default=None,
        validate_default=True,
        validation_alias="SOTA_LOG_PATH",
        description="A log folder of `fin_factor` or `fin_quant`: the set of its last *accepted* factor "
        "loop. `latest` is the newest log under `log/` that accepted one. Several are joined, as above.",
    )
    factor_patterns: NameList = Field(
        default=None,
        validate_default=True,
        validation_alias="SOTA_FACTORS",
        description="The factors to take: names or shell patterns, commas between; all if not set.",
    )
    excluded_patterns: NameList = Field(
        default=None,
        validate_default=True,
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
    alpha_factors: Annotated[str, BeforeValidator(_unquoted)] = Field(
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
    def alpha_factors_explicit(self) -> bool:
        """True if the user set `ALPHA_FACTORS`, rather than leaving its default."""
        return "alpha_factors" in self.model_fields_set


NAMES = tuple(str(field.validation_alias) for field in Settings.model_fields.values())
"""The variables, in the order of the table."""


def stage_of_job() -> Mapping[str, Any]:
    """Return what `rdagent-sota run` gave to the stage that this process belongs to; empty in no stage.

    `settings` holds all of ours, and wins over the environment: RD-Agent, or a fork of it, may load a `.env`
    over that. `variables` holds RD-Agent's own, which `bridge.stage` compares.
    """
    given: dict[str, Any] = json.loads(os.environ.get(STAGE, "{}"))
    return given


def _asked() -> Mapping[str, str]:
    """Return the variables by their names: those of the stage, else those of the environment."""
    asked: Mapping[str, str] = stage_of_job().get("settings", os.environ)
    return asked


def read_settings() -> Settings:
    """Read the settings of the stage that this process belongs to, else those of the environment.

    Raises:
        SettingsError: if a variable has a value that means nothing; the message names the variable.
    """
    asked = _asked()
    try:
        # `SOTA_WORKSPACE_PATH=` in a .env file means "not set".
        return Settings.model_validate({name: asked[name] for name in NAMES if asked.get(name)})
    except ValidationError as error:
        detail = error.errors()[0]
        expected = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        raise _unknown_value(str(detail["loc"][0]), expected) from None


def misspelt_names() -> list[tuple[str, str]]:
    """Return variables of the environment that are nearly one of the settings, each with that setting."""
    others = sorted(set(os.environ) - set(NAMES))
    words = [name.upper().removeprefix("$ENV:") for name in others]  # PowerShell's form, in a .env
    near = [difflib.get_close_matches(word, NAMES, n=1, cutoff=0.88) for word in words]
    return [(name, meant[0]) for name, meant in zip(others, near, strict=True) if meant]


def is_enabled() -> bool:
    """Return what the switch says; a bad value elsewhere stops no run that has it off.

    Raises:
        SettingsError: if the switch itself has a value that means nothing.
    """
    asked, said = _asked(), []
    for name in filter(asked.get, SWITCHES):
        try:
            said.append(switch(asked[name]))
        except ValueError as error:
            raise _unknown_value(name, str(error)) from None
    if len(set(said)) > 1:
        raise SettingsError(
            f"{' and '.join(SWITCHES)} contradict each other: {asked[SWITCHES[0]]} and {asked[SWITCHES[1]]}",
            "environment variables or .env entries",
            "take one of them away; each is a name of the switch",
        )
    return any(said)


def lost_switch() -> str:
    """Return what to tell a run for which a set is named and no switch is set, on or off; else empty.

    The name of a set or of the switch may be one that is nearly right, such as `$env:SOTA_LOG_PATH`.
    """
    asked, near = _asked(), misspelt_names()
    paths = [name for name in PATHS if asked.get(name)] + [name for name, meant in near if meant in PATHS]
    if not paths or any(map(asked.get, SWITCHES)):
        return ""
    text = f"{' and '.join(paths)} is set, and {SWITCHES[0]} is not: the factors named there are not used. "
    text += f"To use them, set {SWITCHES[0]}=true in the environment or in .env"
    text += "".join(f", and name the set in {meant}, not {name!r}" for name, meant in near if meant in PATHS)
    found = [f"{name!r} is another name" for name, meant in near if meant in SWITCHES]
    found += [f"{name} is empty; exported so, it wins over .env" for name in SWITCHES if name in asked]
    return f"{text} ({'; '.join(found)})" if found else text


def _unknown_value(name: str, expected: str) -> SettingsError:
    value = _asked()[name]
    # Of a URL nothing is shown, for nobody knows where a password ends.
    shown = f"{value.partition('://')[0]}://{urls.HIDDEN}" if "://" in value else value
    return SettingsError(
        f"{name} has an unknown value: {shown!r}",
        f"environment variable or .env entry {name}",
        f"{expected}; then start again",
    )
