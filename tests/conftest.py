"""Fixtures for all tests: a clean environment, and real runs of RD-Agent in a folder of their own."""

from __future__ import annotations

import gc
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.settings import REMOVED, STAGE, Settings
from rdagent_sota_bridge.system import cache
from tests import seams, stacks
from tests.forking import Forks

# Read by RD-Agent and Qlib at import; the tests must not depend on what the machine has set.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# fsspec reads its own at import, and drivers all of them. What installs packages may need a proxy, and no
# server of the tests is behind one.
for _name in list(os.environ):
    if _name.upper().startswith(("AWS_", "FSSPEC_")):
        del os.environ[_name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,::1,localhost"

stacks.leave_out_source()

# RD-Agent and pandas are half a million objects, which each full collection would walk over.
gc.disable()

VARIABLES = (
    *(str(field.validation_alias) for field in Settings.model_fields.values()),
    REMOVED,
    "WORKSPACE_PATH",
    "MODEL_CoSTEER_ENV_TYPE",
    "QLIB_DOCKER_EXTRA_VOLUMES",
    "RDAGENT_SOTA_BRIDGE",
    "RDAGENT_SOTA_BRIDGE_DISABLED",
    "QLIB_MODEL_RUNNER",
    "ENABLE_CACHE",
    "_RDAGENT_SOTA_LATEST_LOG",
    "CONDA_DEFAULT_ENV",
    STAGE,
)


@pytest.fixture(scope="session")
def market_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Market]:
    """Return a home folder and the demo's market in it, shared by tests that only read it."""
    folder = tmp_path_factory.mktemp("home")
    return folder, seams.put_market(folder)


@pytest.fixture(scope="session")
def forks_of_rdagent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Return what runs code in forks of a Python that has loaded all that RD-Agent needs."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give a test a temporary folder of its own with a space in its name, and see that it ends empty."""
    folder = tmp_path / "temporary files"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the package's variables out of the environment of every test, and forget what was asked."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # RD-Agent's settings differ from test to test.
    dry_run.ask_model_runner.cache_clear()
    dry_run.ask_factor_runner.cache_clear()


_folder = tempfile.TemporaryDirectory(prefix="rdagent-sota-tests-")
_before = Path.cwd()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Go to a temporary folder, before any test module imports RD-Agent: it works where it was imported."""
    if session.config.getoption("dist", "no") != "no" and not hasattr(session.config, "workerinput"):
        return  # xdist's controller runs no test, and its workers start where it is
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background
    os.environ["XDG_CACHE_HOME"] = str(Path(_folder.name) / "cache")
    os.environ["ARTIFACT_SIGNING_KEY_PATH"] = str(Path(_folder.name) / "artifact_signing.key")
    os.chdir(_folder.name)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker run what needs the same slow thing, and begin with what takes minutes.

    Then short tests fill up all workers at the end.
    """
    for item in items:
        for slow in {"forks_of_rdagent", "browser"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.xdist_group(slow))
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


def pytest_collection_finish() -> None:
    """Collect garbage again, but for what the modules hold."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    os.chdir(_before)
    _folder.cleanup()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in red where the report's page was not looked at in a browser, and on which Python nothing ran."""
    reasons = " ".join(str(skipped.longrepr) for skipped in terminalreporter.stats.get("skipped", []))
    titles = sorted({f"{found}: NOTHING RAN ON IT" for found in _MISSING_PYTHON.findall(reasons)})
    if "CHROMIUM IS NOT INSTALLED" in reasons:
        titles.append("CHROMIUM IS NOT INSTALLED: tests/report/test_browser.py DID NOT RUN")
    for title in titles:
        terminalreporter.section(title, red=True, bold=True)


_MISSING_PYTHON = re.compile(r"PYTHON [0-9.]+ IS NOT ON THIS MACHINE")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in an empty folder, with an empty cache that keeps what is found in files just written too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_COARSE_CLOCK", -(10**12))
    return tmp_path
