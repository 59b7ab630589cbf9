"""What `make test` runs: a session for each RD-Agent and each Python, environments below `.venv`.

`make` sets up `.venv` itself, with the newest RD-Agent and Qlib. `nox --list` shows the sessions; what stands
behind `--` is for pytest: `.venv/bin/nox -s oldest -- -k handoff`.
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
    "alpha environment fetching forks handoff history latest_log listing locate "
    "model_verdict mounts normal options patch performance pickled qlib_config qlib_record quant "
    "recognition resume run_progress sessions source source_file startup training verdict_shapes "
    "verification"
)
# What knows RD-Agent or the platform; the hand-off runs there to the end, too (tests/test_pythons.py).
PYTHON_TESTS = "child filesystem mounts resume rooms sessions settings startup"

# The CPU build of torch: from a folder of wheels where one is named, else from torch's own index.
LINKS = os.environ.get("PIP_FIND_LINKS")
TORCH = ("--find-links", LINKS) if LINKS else ("--torch-backend", "cpu")


def _files(names: str) -> list[str]:
    return [f"tests/test_{name}.py" for name in names.split()]


def _pytest(session: nox.Session, *words: str, python: str = "python") -> None:
    session.run(python, "-m", "pytest", "-n", "2", "--dist", "loadgroup", *words, *session.posargs)


def _installed_python(version: str) -> str:
    """Return a Python of pyenv's, whose shims on PATH may not start it; where it has none, the number."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return next((str(found) for found in pyenv.glob(f"versions/{version}.*/bin/python")), version)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Look at form, types, and which room imports which."""
    for words in (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("mypy",), ("lint-imports",)):
        session.run(str(BIN / words[0]), *words[1:])


# Before `newest`, whose end-to-end tests start RD-Agent in the environments of the other sessions.
@nox.session(python=sys.executable)
def oldest(session: nox.Session) -> None:
    """RD-Agent 0.8.0."""
    session.install(
        "--compile-bytecode", *TORCH, "--group", "dev", "--group", "qlib", "--group", "oldest", "-e", "."
    )
    _pytest(session, "-m", "not e2e", *_files(HOST_TESTS))


def _on_python(session: nox.Session) -> None:
    session.install("--compile-bytecode", "--group", "dev", "--group", "newest", "-e", ".")
    _pytest(session, "-m", "not e2e", *_files(PYTHON_TESTS))


for version in PYTHONS:
    nox.session(
        _on_python,
        name=f"python-{version}",
        python=_installed_python(version),
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
