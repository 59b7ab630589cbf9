"""The environment variables: what they mean, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path

import pydantic
import pytest
from dotenv import dotenv_values

from rdagent_sota_bridge.errors import SettingsError
from rdagent_sota_bridge.settings import (
    NAMES,
    STAGE,
    is_enabled,
    lost_switch,
    misspelt_names,
    read_settings,
)

SWITCH = "expected one of true, 1, yes, on or false, 0, no, off"
EMPTY_PATH = "an entry between the separators (:) is empty; is a variable in it not set?"
EMPTY_NAME = "a name between the commas is empty"
CORRELATION = "expected a number above 0 and up to 1, or off"


def test_without_variables_everything_has_its_default() -> None:
    """Nothing set, the switch is off and the other settings have the values that the README states."""
    settings = read_settings()
    assert settings.enabled is is_enabled() is False
    assert settings.use_alpha_factors is True
    assert (settings.alpha_factors, settings.alpha_factors_explicit) == ("alpha22", False)
    assert (settings.on_error, settings.verdict_on_models) == ("fail", "mended")
    assert (settings.workspace_paths, settings.log_paths) == ((), ())
    assert (settings.factor_patterns, settings.excluded_patterns) == ((), ())
    assert settings.max_correlation == 0.99
    assert settings.store_path is None


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("LOAD_SOTA_FROM_WORKSPACE", " tRuE ", "enabled", True),
        ("LOAD_SOTA_FROM_WORKSPACE", "1", "enabled", True),
        ("LOAD_SOTA_FROM_WORKSPACE", "Off", "enabled", False),
        ("USE_ALPHA_FACTORS", "no", "use_alpha_factors", False),
        ("USE_ALPHA_FACTORS", "0", "use_alpha_factors", False),
        ("USE_ALPHA_FACTORS", "on", "use_alpha_factors", True),
        ("ALPHA_FACTORS", "./My Base.YAML", "alpha_factors", "./My Base.YAML"),
        ("ALPHA_FACTORS", "alpha22", "alpha_factors_explicit", True),
        ("SOTA_ON_ERROR", " Baseline", "on_error", "baseline"),
        ("SOTA_MODEL_VERDICT", "RDAgent ", "verdict_on_models", "rdagent"),
        ("SOTA_WORKSPACE_PATH", "~/My Sets/因子", "workspace_paths", ("~/My Sets/因子",)),
        ("SOTA_WORKSPACE_PATH", " one : ./two:one", "workspace_paths", ("one", "./two", "one")),
        ("SOTA_WORKSPACE_PATH", "/a;b", "workspace_paths", ("/a;b",)),
        ("SOTA_WORKSPACE_PATH", "/one s3://b/set ~/two", "workspace_paths", ("/one", "s3://b/set", "~/two")),
        ("SOTA_LOG_PATH", "latest:log/run", "log_paths", ("latest", "log/run")),
        ("SOTA_FACTORS", " mom , vol_* ,动量", "factor_patterns", ("mom", "vol_*", "动量")),
        ("SOTA_FACTORS_EXCLUDE", "a b,[!x]?", "excluded_patterns", ("a b", "[!x]?")),
        ("SOTA_MAX_CORRELATION", " 0.95 ", "max_correlation", 0.95),
        ("SOTA_MAX_CORRELATION", "1", "max_correlation", 1.0),
        ("SOTA_MAX_CORRELATION", "Off", "max_correlation", math.inf),
    ],
)
def test_what_a_value_means(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, name: str, expected: object
) -> None:
    """Words are taken in any case, lists are split, and texts keep their case, blanks and letters."""
    monkeypatch.setenv(variable, value)
    assert getattr(read_settings(), name) == expected
    assert variable != "LOAD_SOTA_FROM_WORKSPACE" or is_enabled() is expected


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("LOAD_SOTA_FROM_WORKSPACE", "tru", SWITCH),
        ("LOAD_SOTA_FROM_WORKSPACE", "2", SWITCH),
        ("USE_ALPHA_FACTORS", " ", SWITCH),
        ("SOTA_ON_ERROR", "stop", "expected 'fail' or 'baseline'"),
        ("SOTA_ON_ERROR", " ", "expected 'fail' or 'baseline'"),
        ("SOTA_MODEL_VERDICT", "true", "expected 'mended' or 'rdagent'"),
        ("SOTA_WORKSPACE_PATH", "one::two", EMPTY_PATH),
        ("SOTA_WORKSPACE_PATH", ":one", EMPTY_PATH),
        ("SOTA_WORKSPACE_PATH", " ", EMPTY_PATH),
        ("SOTA_LOG_PATH", "one: :two", EMPTY_PATH),
        ("SOTA_FACTORS", "mom,", EMPTY_NAME),
        ("SOTA_FACTORS_EXCLUDE", "mom, ,size", EMPTY_NAME),
        ("SOTA_MAX_CORRELATION", "0", CORRELATION),
        ("SOTA_MAX_CORRELATION", "1.01", CORRELATION),
        ("SOTA_MAX_CORRELATION", "nan", CORRELATION),
        ("SOTA_MAX_CORRELATION", "inf", CORRELATION),
        ("SOTA_MAX_CORRELATION", "99%", CORRELATION),
        ("SOTA_STORE_PATH", "  ", "the folder's name is blank"),
        ("SOTA_STORE_PATH", "s3://***", "expected a folder of this machine, not a URL"),
        ("SOTA_STORE_PATH", "~nobody-of-that-name/store", "~ names a user who is not known here; write the"),
    ],
)
def test_a_value_that_means_nothing(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fix: str
) -> None:
    """A typo is an error with the variable, the value and what is expected; never "off" or passed over."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == f"{variable} has an unknown value: {value!r}"
    assert caught.value.place == f"environment variable or .env entry {variable}"
    assert caught.value.fix.startswith(fix)
    assert caught.value.fix.endswith("; then start again")
    if variable == "LOAD_SOTA_FROM_WORKSPACE":
        with pytest.raises(SettingsError) as from_switch:
            is_enabled()
        assert str(from_switch.value) == str(caught.value)


def test_an_empty_value_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NAME=` in a .env file means the default, for each variable, and leaves ALPHA_FACTORS unchosen."""
    before = read_settings()
    for field in type(before).model_fields.values():
        monkeypatch.setenv(str(field.validation_alias), "")
    assert read_settings() == before
    assert read_settings().alpha_factors_explicit is is_enabled() is False


def test_is_enabled_ignores_the_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value elsewhere stops no run that has the switch off; the settings do refuse it."""
    monkeypatch.setenv("USE_ALPHA_FACTORS", "perhaps")
    assert is_enabled() is False
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "on")
    assert is_enabled() is True
    with pytest.raises(SettingsError, match=r"^USE_ALPHA_FACTORS has an unknown value: 'perhaps'"):
        read_settings()


def test_settings_are_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that changes between two calls changes the answer, and not what was read before."""
    before = read_settings()
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    assert (read_settings().enabled, is_enabled(), before.enabled) == (True, True, False)
    with pytest.raises(pydantic.ValidationError):
        before.enabled = True  # type: ignore[misc]


def test_import_reads_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad values do no harm at import; they are refused at the first call."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "x")
    monkeypatch.setenv("SOTA_ON_ERROR", "x")
    spec = importlib.util.find_spec("rdagent_sota_bridge.settings")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_other_names_mean_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another case, the name of a field and a .env file (RD-Agent reads it) are not taken or refused."""
    (tmp_path / ".env").write_text("LOAD_SOTA_FROM_WORKSPACE=true\n")
    monkeypatch.chdir(tmp_path)
    before = read_settings()
    for name in ("load_sota_from_workspace", "ENABLED", "enabled", "sota_on_error", "on_error"):
        monkeypatch.setenv(name, "true")
    assert read_settings() == before
    assert is_enabled() is False


def test_names_that_are_nearly_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is named with what was meant; settings, and what only looks alike, are not."""
    found = ("LOAD_SOTA_FROM_WORKSPCE", "SOTA_FACTOR", "sota_log_path", "$env:SOTA_LOG_PATH")
    for name in (*found, "SOTA_FACTORS", "WORKSPACE_PATH"):
        monkeypatch.setenv(name, "x")
    assert misspelt_names() == [
        ("$env:SOTA_LOG_PATH", "SOTA_LOG_PATH"),
        ("LOAD_SOTA_FROM_WORKSPCE", "LOAD_SOTA_FROM_WORKSPACE"),
        ("SOTA_FACTOR", "SOTA_FACTORS"),
        ("sota_log_path", "SOTA_LOG_PATH"),
    ]


@pytest.mark.parametrize(
    ("workspace", "log", "expected"),
    [("true", "", True), ("", "on", True), ("false", "no", False), ("", "", False)],
)
def test_either_name_of_the_switch(
    monkeypatch: pytest.MonkeyPatch, workspace: str, log: str, expected: bool
) -> None:
    """Either is the switch; two that contradict each other, and a typo in either, are refused."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", workspace)
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", log)
    assert is_enabled() is expected
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "off" if expected else "on")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "yes" if expected else "no")
    with pytest.raises(SettingsError, match=r"contradict each other: (yes and off|no and on)"):
        is_enabled()
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "ture")
    with pytest.raises(SettingsError, match=r"^LOAD_SOTA_FROM_LOG has an unknown value: 'ture'"):
        is_enabled()


def env_file(text: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Load a `.env` into the environment, until the test ends."""
    (folder / ".env").write_text(text, encoding="utf-8")
    for name, value in dotenv_values(folder / ".env").items():
        if name not in os.environ:
            monkeypatch.setenv(name, str(value))


PATH_LOST = "SOTA_LOG_PATH is set, and LOAD_SOTA_FROM_WORKSPACE is not: the factors named there are not used"


@pytest.mark.parametrize(
    ("text", "exported", "why"),
    [
        ("SOTA_LOG_PATH=latest\n", {}, "or in .env"),
        ("set LOAD_SOTA_FROM_WORKSPACE=true\nSOTA_LOG_PATH=latest\n", {}, "or in .env"),
        (
            "$env:LOAD_SOTA_FROM_WORKSPACE=true\nSOTA_LOG_PATH=latest\n",
            {},
            "'$env:LOAD_SOTA_FROM_WORKSPACE' is another name",
        ),
        (
            "SOTA_LOG_PATH=latest\n",
            {"\ufeffLOAD_SOTA_FROM_WORKSPACE": "true"},  # python-dotenv before 1.2 leaves the mark there
            r"'\ufeffLOAD_SOTA_FROM_WORKSPACE' is another name",
        ),
        (
            "load_sota_from_log=true\nSOTA_LOG_PATH=latest\n",
            {},
            "'load_sota_from_log' is another name",
        ),
        (
            "LOAD_SOTA_FROM_WORKSPACE=true\nSOTA_LOG_PATH=latest\n",
            {"LOAD_SOTA_FROM_WORKSPACE": ""},
            "LOAD_SOTA_FROM_WORKSPACE is empty; exported so, it wins over .env",
        ),
        ("$env:SOTA_LOG_PATH=latest\n", {}, "or in .env"),
        ("sota_log_path=latest\nload_sota_from_workspace=true\n", {}, "'load_sota_from_workspace' is"),
    ],
)
def test_a_switch_that_got_lost(
    text: str, exported: dict[str, str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a set is named and no switch arrives, there is one text on it, and nothing is switched on."""
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    env_file(text, monkeypatch, tmp_path)
    found = lost_switch()
    assert PATH_LOST.lower() in found.lower()
    assert why in found
    assert is_enabled() is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "LOAD_SOTA_FROM_WORKSPACE=false\nSOTA_LOG_PATH=latest\n",
        "LOAD_SOTA_FROM_WORKSPACE=true\nSOTA_LOG_PATH=latest\n",
        "LOAD_SOTA_FROM_LOG=true\nSOTA_LOG_PATH=latest\n",
        "SOTA_LOG_PATH=\n",
    ],
)
def test_a_switch_that_is_where_it_should_be(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch that says on or off is what the user wants, and without a set there is nothing to lose."""
    env_file(text, monkeypatch, tmp_path)
    assert lost_switch() == ""


def test_a_stage_has_its_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job gives to a stage wins over every variable, also where it gives nothing."""
    for name in NAMES:
        monkeypatch.setenv(name, "of the environment")
    given = dict.fromkeys(NAMES, "") | {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": "/w"}
    monkeypatch.setenv(STAGE, json.dumps({"settings": given, "variables": {}}))
    assert is_enabled() is True
    assert read_settings().workspace_paths == ("/w",)
    assert (read_settings().log_paths, read_settings().factor_patterns) == ((), ())
    given["LOAD_SOTA_FROM_WORKSPACE"] = "false"
    monkeypatch.setenv(STAGE, json.dumps({"settings": given, "variables": {}}))
    assert (is_enabled(), lost_switch()) == (False, "")


def test_a_path_with_the_separator_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A text that is a path as a whole is one entry, with its separators."""
    path = tmp_path / f"a{os.pathsep}b"
    path.mkdir()
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(path))
    assert read_settings().workspace_paths == (str(path),)
