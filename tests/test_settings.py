"""The environment variables: what they mean, and what is refused."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pydantic
import pytest

from rdagent_sota_bridge.errors import SettingsError
from rdagent_sota_bridge.settings import is_enabled, misspelt_names, read_settings
from tests.frames import assert_survives_pickling

SWITCHES = {
    "LOAD_SOTA_FROM_WORKSPACE": "enabled",
    "USE_ALPHA_FACTORS": "use_alpha_factors",
    "SOTA_PREPARED_DATA": "prepared_data",
}
TRUE_SPELLINGS = ("true", "True", "TRUE", "tRuE", "1", "yes", "Yes", "YES", "on", "On", "ON", " true ")
FALSE_SPELLINGS = ("false", "False", "FALSE", "0", "no", "No", "NO", "off", "Off", "OFF", " off ")
UNKNOWN_SWITCHES = ("tru", "2", "-1", "y", "n", "t", "f", "enabled", "none", "ja", "真", " ", "true false")


def test_without_variables_everything_has_its_default() -> None:
    """Nothing set, the switch is off and the other settings have the values that the README states."""
    settings = read_settings()
    assert settings.enabled is False
    assert settings.workspace_path is None
    assert settings.use_alpha_factors is True
    assert settings.alpha_factors == "alpha22"
    assert settings.on_error == "fail"
    assert settings.alpha_factors_explicit is False
    assert is_enabled() is False


@pytest.mark.parametrize("spelling", TRUE_SPELLINGS)
@pytest.mark.parametrize("variable", SWITCHES)
def test_true_in_every_spelling(monkeypatch: pytest.MonkeyPatch, variable: str, spelling: str) -> None:
    """Each word for true, in any case, turns either switch on."""
    monkeypatch.setenv(variable, spelling)
    assert getattr(read_settings(), SWITCHES[variable]) is True


@pytest.mark.parametrize("spelling", FALSE_SPELLINGS)
@pytest.mark.parametrize("variable", SWITCHES)
def test_false_in_every_spelling(monkeypatch: pytest.MonkeyPatch, variable: str, spelling: str) -> None:
    """Each word for false, in any case, turns either switch off."""
    monkeypatch.setenv(variable, spelling)
    assert getattr(read_settings(), SWITCHES[variable]) is False


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [*((word, True) for word in TRUE_SPELLINGS), *((word, False) for word in FALSE_SPELLINGS)],
)
def test_is_enabled_reads_the_same_spellings(
    monkeypatch: pytest.MonkeyPatch, spelling: str, expected: bool
) -> None:
    """`is_enabled` and the settings agree on every spelling."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", spelling)
    assert is_enabled() is expected
    assert read_settings().enabled is expected


@pytest.mark.parametrize("value", UNKNOWN_SWITCHES)
@pytest.mark.parametrize("variable", SWITCHES)
def test_unknown_switch_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A typo in a switch is an error with the variable, the value and every accepted word; never "off"."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    error = caught.value
    assert error.fact == f"{variable} has an unknown value: {value!r}"
    assert error.place == f"environment variable or .env entry {variable}"
    assert error.fix == "expected one of true, 1, yes, on or false, 0, no, off; then start again"
    assert_survives_pickling(error)


@pytest.mark.parametrize("value", UNKNOWN_SWITCHES)
def test_is_enabled_refuses_what_the_settings_refuse(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """`is_enabled` gives the same error for an unknown value of the switch as the settings do."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", value)
    with pytest.raises(SettingsError) as from_settings:
        read_settings()
    with pytest.raises(SettingsError) as from_switch:
        is_enabled()
    assert str(from_switch.value) == str(from_settings.value)


@pytest.mark.parametrize("value", ["stop", "failed", "base line", "1", "true", " "])
def test_unknown_error_mode_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An unknown SOTA_ON_ERROR is an error with the variable, the value and both accepted words."""
    monkeypatch.setenv("SOTA_ON_ERROR", value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == f"SOTA_ON_ERROR has an unknown value: {value!r}"
    assert caught.value.place == "environment variable or .env entry SOTA_ON_ERROR"
    assert caught.value.fix == "expected fail or baseline; then start again"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("fail", "fail"),
        ("FAIL", "fail"),
        ("baseline", "baseline"),
        ("Baseline", "baseline"),
        (" fail ", "fail"),
    ],
)
def test_error_mode_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    """SOTA_ON_ERROR accepts its two words in any case and hands on the lower one."""
    monkeypatch.setenv("SOTA_ON_ERROR", value)
    assert read_settings().on_error == expected


@pytest.mark.parametrize("value", ["fix", "true", "RD-Agent", "off", "0", " "])
def test_unknown_verdict_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An unknown SOTA_MODEL_VERDICT is an error with the variable, the value and both accepted words."""
    monkeypatch.setenv("SOTA_MODEL_VERDICT", value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == f"SOTA_MODEL_VERDICT has an unknown value: {value!r}"
    assert caught.value.fix == "expected mended or rdagent; then start again"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "mended"),
        ("mended", "mended"),
        (" Mended", "mended"),
        ("rdagent", "rdagent"),
        ("RDAgent ", "rdagent"),
    ],
)
def test_verdict_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    """SOTA_MODEL_VERDICT accepts its two words in any case, and fixes if it is not set."""
    monkeypatch.setenv("SOTA_MODEL_VERDICT", value)
    assert read_settings().verdict_on_models == expected


@pytest.mark.parametrize(
    "variable",
    [
        "LOAD_SOTA_FROM_WORKSPACE",
        "SOTA_WORKSPACE_PATH",
        "USE_ALPHA_FACTORS",
        "ALPHA_FACTORS",
        "SOTA_ON_ERROR",
        "SOTA_LOG_PATH",
        "SOTA_FACTORS",
        "SOTA_FACTORS_EXCLUDE",
        "SOTA_MAX_CORRELATION",
        "SOTA_MODEL_VERDICT",
    ],
)
def test_empty_value_is_unset(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """`NAME=` in a .env file means the default, for each variable, and leaves ALPHA_FACTORS unchosen."""
    before = read_settings()
    monkeypatch.setenv(variable, "")
    assert read_settings() == before
    assert read_settings().alpha_factors_explicit is False
    assert is_enabled() is False


def test_texts_are_taken_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths keep their case, blanks and non-ASCII letters."""
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", "~/My Sets/因子")
    monkeypatch.setenv("ALPHA_FACTORS", "./My Base.YAML")
    settings = read_settings()
    assert settings.workspace_path == "~/My Sets/因子"
    assert settings.alpha_factors == "./My Base.YAML"


@pytest.mark.parametrize("value", ["alpha22", "alpha20", "base.yaml"])
def test_chosen_base_set_is_explicit(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A user who sets ALPHA_FACTORS has chosen, even where the choice equals the default."""
    monkeypatch.setenv("ALPHA_FACTORS", value)
    assert read_settings().alpha_factors_explicit is True


PATHS = {"SOTA_WORKSPACE_PATH": "workspace_paths", "SOTA_LOG_PATH": "log_paths"}
NAMES = {"SOTA_FACTORS": "factor_patterns", "SOTA_FACTORS_EXCLUDE": "excluded_patterns"}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["one"], ("one",)),
        (["/a b/因子"], ("/a b/因子",)),
        (["one", "two", "one"], ("one", "two", "one")),
        ([" one ", " ./two "], ("one", "./two")),
        (["file:///data/set.parquet"], ("file:///data/set.parquet",)),
        (["/one", "s3://bucket/set", "~/two"], ("/one", "s3://bucket/set", "~/two")),
        (["s3://a", "s3://b"], ("s3://a", "s3://b")),
        (["latest"], ("latest",)),
        (["/sets/a;b"], ("/sets/a;b",)),
    ],
)
@pytest.mark.parametrize("variable", PATHS)
def test_several_paths(
    monkeypatch: pytest.MonkeyPatch, variable: str, entries: list[str], expected: tuple[str, ...]
) -> None:
    """Entries are split at a colon, which never splits a scheme from its place."""
    monkeypatch.setenv(variable, ":".join(entries))
    assert getattr(read_settings(), PATHS[variable]) == expected


@pytest.mark.parametrize("value", [":", "one:", ":one", "one::two", "one: :two", " ", "s3://a:"])
@pytest.mark.parametrize("variable", PATHS)
def test_empty_path_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """An entry that is empty, as of a variable that was not set, is not passed over."""
    monkeypatch.setattr(os, "pathsep", ":")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == f"{variable} has an unknown value: {value!r}"
    assert caught.value.place == f"environment variable or .env entry {variable}"
    assert caught.value.fix == (
        "an entry between the separators (:) is empty; is a variable in it not set?; then start again"
    )
    assert_survives_pickling(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mom", ("mom",)),
        ("mom,size", ("mom", "size")),
        (" mom , vol_* ,动量", ("mom", "vol_*", "动量")),
        ("a b,[!x]?", ("a b", "[!x]?")),
    ],
)
@pytest.mark.parametrize("variable", NAMES)
def test_names_of_factors(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: tuple[str, ...]
) -> None:
    """Names and patterns stand between commas, without the blanks around them."""
    monkeypatch.setenv(variable, value)
    assert getattr(read_settings(), NAMES[variable]) == expected


@pytest.mark.parametrize("value", [",", "mom,", ",mom", "mom,,size", "mom, ,size", " "])
@pytest.mark.parametrize("variable", NAMES)
def test_empty_name_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A name that is empty is not passed over."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == f"{variable} has an unknown value: {value!r}"
    assert caught.value.fix == "a name between the commas is empty; then start again"


def test_lists_that_are_not_set_are_empty() -> None:
    """No variable set, there is no path and no name, and factors are dropped from 0.99 on."""
    settings = read_settings()
    assert [getattr(settings, name) for name in (*PATHS.values(), *NAMES.values())] == [(), (), (), ()]
    assert settings.max_correlation == 0.99


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.9", 0.9),
        ("1", 1.0),
        ("1.0", 1.0),
        (" 0.95 ", 0.95),
        ("1e-3", 1e-3),
        ("off", math.inf),
        ("OFF", math.inf),
        (" Off ", math.inf),
    ],
)
def test_largest_correlation(monkeypatch: pytest.MonkeyPatch, value: str, expected: float) -> None:
    """A number above 0 and up to 1 is taken; `off`, in any case, is beyond every correlation."""
    monkeypatch.setenv("SOTA_MAX_CORRELATION", value)
    assert read_settings().max_correlation == expected


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-0.5",
        "1.01",
        "99",
        "99%",
        "nan",
        "inf",
        "-inf",
        "infinity",
        "true",
        "false",
        "none",
        "0,9",
        "0.9 0.8",
        " ",
    ],
)
def test_unknown_correlation_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Anything else is an error, also what Python takes for a number."""
    monkeypatch.setenv("SOTA_MAX_CORRELATION", value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == f"SOTA_MAX_CORRELATION has an unknown value: {value!r}"
    assert caught.value.fix == "expected a number above 0 and up to 1, or off; then start again"


def test_is_enabled_ignores_the_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value elsewhere stops no run that has the switch off; the settings do refuse it."""
    monkeypatch.setenv("USE_ALPHA_FACTORS", "perhaps")
    monkeypatch.setenv("SOTA_ON_ERROR", "explode")
    assert is_enabled() is False
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "on")
    assert is_enabled() is True
    with pytest.raises(SettingsError, match=r"^USE_ALPHA_FACTORS has an unknown value: 'perhaps'"):
        read_settings()


def test_settings_are_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that changes between two calls changes the second answer: nothing is kept from import."""
    assert read_settings().enabled is False
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", "one")
    assert (read_settings().enabled, read_settings().workspace_path, is_enabled()) == (True, "one", True)
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", "two")
    monkeypatch.delenv("LOAD_SOTA_FROM_WORKSPACE")
    assert (read_settings().enabled, read_settings().workspace_path, is_enabled()) == (False, "two", False)


def test_import_reads_no_variable() -> None:
    """Bad values do no harm at import; they are refused at the first call."""
    code = (
        "import os; os.environ.update(LOAD_SOTA_FROM_WORKSPACE='x', SOTA_ON_ERROR='x')\n"
        "from rdagent_sota_bridge import settings\n"
        "os.environ.update(LOAD_SOTA_FROM_WORKSPACE='yes', SOTA_ON_ERROR='baseline')\n"
        "print(settings.is_enabled(), settings.read_settings().on_error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True baseline\n"), done.stderr


@pytest.mark.parametrize(
    "name", ["load_sota_from_workspace", "Load_Sota_From_Workspace", "ENABLED", "enabled"]
)
def test_names_are_case_sensitive(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another case of a name, or the name of the field, is not the variable."""
    monkeypatch.setenv(name, "true")
    assert read_settings().enabled is False
    assert is_enabled() is False


def test_lower_case_names_of_the_other_variables_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values under lower-case names are neither taken nor refused."""
    before = read_settings()
    for name in ("sota_workspace_path", "use_alpha_factors", "alpha_factors", "sota_on_error", "on_error"):
        monkeypatch.setenv(name, "nonsense")
    assert read_settings() == before


def test_settings_can_not_be_changed() -> None:
    """What was read stays as it was read."""
    settings = read_settings()
    with pytest.raises(pydantic.ValidationError):
        settings.enabled = True  # type: ignore[misc]
    assert settings.enabled is False


def test_dotenv_file_is_left_to_rdagent(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A .env file in the current folder is read by RD-Agent's command line alone, not a second time here."""
    folder = tmp_path_factory.mktemp("with_dotenv")
    (folder / ".env").write_text("LOAD_SOTA_FROM_WORKSPACE=true\n")
    monkeypatch.chdir(folder)
    assert read_settings().enabled is False


def test_names_that_are_nearly_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is told with what was meant; settings, and what only looks alike, are not."""
    for name in ("LOAD_SOTA_FROM_WORKSPCE", "SOTA_FACTOR", "sota_log_path", "SOTA_FACTORS", "WORKSPACE_PATH"):
        monkeypatch.setenv(name, "x")
    assert misspelt_names() == [
        ("LOAD_SOTA_FROM_WORKSPCE", "LOAD_SOTA_FROM_WORKSPACE"),
        ("SOTA_FACTOR", "SOTA_FACTORS"),
        ("sota_log_path", "SOTA_LOG_PATH"),
    ]


def test_a_store_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of blanks is an error, not a folder of that name."""
    monkeypatch.setenv("SOTA_STORE_PATH", "  ")
    with pytest.raises(SettingsError, match="SOTA_STORE_PATH has an unknown value"):
        read_settings()


def test_a_store_of_an_unknown_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder below the home of a user who is not there is an error that names the variable."""
    monkeypatch.setenv("SOTA_STORE_PATH", "~nobody-of-that-name/store")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert caught.value.fact == "SOTA_STORE_PATH has an unknown value: '~nobody-of-that-name/store'"
    assert "~ names a user who is not known here" in caught.value.fix
