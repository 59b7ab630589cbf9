"""What `make test` runs: a session for each RD-Agent and each Python, environments below `.venv`.

`make` sets up `.venv` itself, with the newest RD-Agent and Qlib. `nox --list` shows the sessions; what stands
behind `--` is for pytest: `.venv/bin/nox -s oldest -- -k loop`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2026.4.10"
nox.options.envdir = ".venv"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False  # a session that is skipped says so, on CI too

BIN = Path(sys.executable).parent
SOURCES = Path(".venv") / "sources"

# Releases whose source is looked at, and which are not run: their files alone, beside each other.
LOOKED_AT = ("0.5.0", "0.6.1", "0.7.0")

# Further Pythons, for the newest RD-Agent alone: Qlib stays in the environment of Python 3.11, as a user's
# stays in conda. Never downloaded: those of this machine, pyenv's among them.
PYTHONS = ("3.10", "3.12")

# What looks at RD-Agent, and so runs on the oldest one too; the other rooms do not know it.
HOST_TESTS = (
    "bridge",
    "doctor",
    "factor_set/test_accepted.py",
    "factor_set/test_locate.py",
    "factor_set/test_names.py",
    "factor_set/test_normal_form.py",
    "factor_set/test_safe_pickle.py",
    "factor_set/test_sessions.py",
    "qlib_files",
    "report/test_history.py",
    "report/test_portfolio_returns.py",
    "report/test_verify.py",
    "run/test_holdout.py",
    "run/test_progress.py",
    "sharing/test_fetching.py",
    "cli/test_list_command.py",
    "test_startup.py",
)
# What knows RD-Agent or the platform; the hand-off runs there to the end, too (tests/bridge/test_pythons.py).
PYTHON_TESTS = (
    "bridge/test_loop.py",
    "factor_set/test_sessions.py",
    "qlib_files/test_docker.py",
    "system",
    "test_rooms.py",
    "test_settings.py",
    "test_startup.py",
)

# The CPU build of torch: from a folder of wheels where one is named, else from torch's own index.
LINKS = os.environ.get("PIP_FIND_LINKS")
TORCH = ("--find-links", LINKS) if LINKS else ("--torch-backend", "cpu")


def _pytest(session: nox.Session, *words: str, python: str = "python") -> None:
    # Three workers for two cores: each waits a third of its time, for children, servers and the disk.
    session.run(python, "-m", "pytest", "-n", "3", "--dist", "loadgroup", *words, *session.posargs)


def interpreter(version: str) -> str:
    """Return a Python of pyenv's, whose shims on PATH may not start it; where it has none, that of PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return next((str(found) for found in pyenv.glob(f"versions/{version}.*/bin/python")), f"python{version}")


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Look at form, types, and which room imports which."""
    for words in (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("mypy",), ("lint-imports",)):
        session.run(str(BIN / words[0]), *words[1:])


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the pages of docs/, in both languages; a link that leads nowhere ends it."""
    words = (str(BIN / "mkdocs"), "build", "--quiet", "--strict", "--site-dir", ".venv/site")
    session.run(*words, env={"NO_MKDOCS_2_WARNING": "1"})  # the theme's word about its successor


# Before `newest`, whose end-to-end tests start RD-Agent in the environments of the other sessions.
@nox.session(python=sys.executable)
def oldest(session: nox.Session) -> None:
    """RD-Agent 0.8.0."""
    session.install(
        "--compile-bytecode", *TORCH, "--group", "dev", "--group", "qlib", "--group", "oldest", "-e", "."
    )
    # What looks at the sources of other releases does so once, in `newest`, which puts them there.
    elsewhere = "--deselect=tests/bridge/test_releases.py"
    _pytest(session, "-m", "not e2e", elsewhere, *(f"tests/{place}" for place in HOST_TESTS))


def _on_python(session: nox.Session) -> None:
    session.install("--compile-bytecode", "--group", "dev", "--group", "newest", "-e", ".")
    _pytest(session, "-m", "not e2e", *(f"tests/{place}" for place in PYTHON_TESTS))


for version in PYTHONS:
    nox.session(
        _on_python,
        name=f"python-{version}",
        python=interpreter(version),
        download_python="never",
    )


@nox.session(venv_backend="none")
def newest(session: nox.Session) -> None:
    """RD-Agent 1.0.0, everything; the sources of older releases are put beside it."""
    for release in LOOKED_AT:
        folder = SOURCES / release
        if not folder.is_dir():
            uv = (str(BIN / "uv"), "pip", "install", "--quiet", "--python", sys.executable)
            session.run(*uv, "--no-deps", "--target", str(folder), f"rdagent=={release}")
    _pytest(session, "--durations", "15", python=sys.executable)
