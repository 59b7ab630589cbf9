"""A folder in which the real `rdagent` runs without conda, Docker or the user's own settings."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

# RD-Agent asks for this environment by name (`QlibCondaConf` in `rdagent/utils/env.py`, 0.8.0 and 1.0.0).
CONDA_ENVIRONMENT = "rdagent4qlib"

# What a child may inherit. The rest of the caller's environment stays outside: RD-Agent, Qlib, mlflow and
# LiteLLM are all steered by variables, and a forgotten QLIB_FACTOR_TRAIN_START would make another
# experiment of the same command.
INHERITED = (
    "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
LOOPBACK = "127.0.0.1,localhost"

CONDA_SHIM = """\
#!/bin/sh
# Stands in for conda: RD-Agent lists the environments and runs commands in one of them. There is one.
case "$1" in
env)
    echo "{environment}  *  {prefix}"
    exit 0
    ;;
run)
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
        -n) shift 2 ;;
        --no-capture-output) shift ;;
        *) PATH={path} exec "$@" ;;
        esac
    done
    ;;
esac
echo "conda stand-in of rdagent-sota: cannot do: conda $*" >&2
exit 2
"""

QRUN_SHIM = """\
#!/bin/sh
exec {python} {script} "$@"
"""

# RD-Agent starts factor code with `f"{python_bin} {path}"` in a shell, unquoted
# (`FactorFBWorkspace.execute` in `rdagent/components/coder/factor_coder/factor.py`, 0.8.0 and 1.0.0): a
# path with spaces arrives in pieces.
FACTOR_PYTHON = "python_of_factor"
FACTOR_PYTHON_SHIM = """\
#!/bin/sh
exec {python} "$*"
"""

# `python -m qlib.cli.run` is what the `qrun` script of pyqlib 0.9.7 calls. RD-Agent's templates ask torch
# for 20 processes that load the data (`n_jobs`), and Qlib starts them three times an epoch: on two cores
# that took a third of a small training's time (13 of 35 seconds). Here the training loads its data itself:
# the same batches in the same order, for their order is drawn in the training's own process.
QRUN_ONCE = '''\
"""Runs Qlib's qrun without torch's processes that load data."""

import runpy
import sys

from torch.utils.data import DataLoader

original = DataLoader.__init__


def init(self, *args, **options):
    original(self, *args, **{**options, "num_workers": 0})


DataLoader.__init__ = init
sys.path[0] = ""  # as with `python -m`: the model's code lies in the current folder
runpy.run_module("qlib.cli.run", run_name="__main__", alter_sys=True)
'''

# Only the last attempt's output is handed on: with the traceback of the race on top the text is so long
# that RD-Agent asks the LLM which parts of it to leave out (`filter_redundant_text` in
# `rdagent/utils/__init__.py`, 0.8.0 and 1.0.0).
QRUN_TWICE = '''\
"""Runs Qlib's qrun, once more when Qlib's asynchronous logging raced mlflow's file store."""

import re
import subprocess
import sys
from pathlib import Path


def qrun() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).with_name("qrun_once.py")), *sys.argv[1:]]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


done = qrun()
if done.returncode != 0 and re.search("Metric '.*' is malformed", done.stdout):
    print("qrun died of a race in Qlib's logging; running it once more", flush=True)
    done = qrun()
print(done.stdout, end="", flush=True)
sys.exit(done.returncode)
'''


_QRUN_TWICE_FILE = "qrun_twice.py"


@dataclass(frozen=True)
class Sandbox:
    """One folder with everything a run of `rdagent` reads and writes.

    Attributes:
        folder: the sandbox itself, absolute.
        python: the interpreter of the environment that holds rdagent.
        qlib_python: that of the environment that holds pyqlib and torch, which may be the same one.
    """

    folder: Path
    python: Path
    qlib_python: Path

    @property
    def home(self) -> Path:
        """HOME of the runs: RD-Agent's templates look for Qlib's data below it."""
        return self.folder / "home"

    @property
    def project(self) -> Path:
        """The folder to start `rdagent` in: logs, workspaces and caches gather here."""
        return self.folder / "project"

    @property
    def bin(self) -> Path:
        """The stand-ins for `conda` and `qrun`, first on PATH."""
        return self.folder / "bin"

    @property
    def is_made(self) -> bool:
        """True if `create` has written the stand-ins here."""
        return (self.bin / _QRUN_TWICE_FILE).is_file()

    @property
    def provider(self) -> Path:
        """Where RD-Agent's templates look for Qlib's data (`provider_uri: "~/.qlib/qlib_data/cn_data"`)."""
        return self.home / ".qlib" / "qlib_data" / "cn_data"

    def environment(self, llm_url: str, **extra: str) -> dict[str, str]:
        """The complete environment for a child `rdagent`, to be started in `project`.

        Args:
            llm_url: base URL of an OpenAI-compatible server, with `/v1`.
            extra: more variables; they win over those set here.
        """
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            **self._places(),
            **_offline_llm(llm_url),
            **_quiet_and_small(),
            **extra,
        }

    def path(self, python: Path) -> str:
        """PATH with the stand-ins first, then an interpreter's folder."""
        return os.pathsep.join([str(self.bin), str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])

    def _places(self) -> dict[str, str]:
        return {
            "PATH": self.path(self.python),
            "HOME": str(self.home),
            # Unset, RD-Agent's settings for the factor coder fail on None (`get_factor_env` in
            # `rdagent/components/coder/factor_coder/config.py`, 0.8.0 and 1.0.0).
            "CONDA_DEFAULT_ENV": CONDA_ENVIRONMENT,
            "FACTOR_CoSTEER_PYTHON_BIN": FACTOR_PYTHON,
        }


def create(
    folder: Path, *, python: str | Path = sys.executable, qlib_python: str | Path | None = None
) -> Sandbox:
    """Make a sandbox; in an existing one only the stand-ins are written anew.

    Args:
        folder: where.
        python: the interpreter of the environment that holds rdagent.
        qlib_python: that of the environment that conda gives to Qlib, where it is another one.

    Raises:
        ValueError: the path of `folder` or an interpreter cannot stand on PATH: a colon ends an entry, and at
            an equals sign RD-Agent cuts the PATH it is told (`CondaConf` in `rdagent/utils/env.py`, 0.8.0 and
            1.0.0).
    """
    # Not resolved: a virtual environment's python is a link to one that lacks the packages.
    qlib = Path(python if qlib_python is None else qlib_python).absolute()
    sandbox = Sandbox(Path(folder).absolute(), Path(python).absolute(), qlib)
    for path in (sandbox.bin, sandbox.python.parent, qlib.parent):
        if set(":=") & set(str(path)):
            raise ValueError(f"a sandbox needs paths without ':' and '=', for they go on PATH: {path}")

    for place in (sandbox.home, sandbox.project, sandbox.bin):
        place.mkdir(parents=True, exist_ok=True)
    _write_executable(sandbox.bin / "conda", _conda_shim(sandbox))
    factor_python = FACTOR_PYTHON_SHIM.format(python=shlex.quote(str(sandbox.python)))
    _write_executable(sandbox.bin / FACTOR_PYTHON, factor_python)
    script = sandbox.bin / _QRUN_TWICE_FILE
    script.write_text(QRUN_TWICE, encoding="utf-8")
    script.with_name("qrun_once.py").write_text(QRUN_ONCE, encoding="utf-8")
    _write_executable(sandbox.bin / "qrun", _qrun_shim(qlib, script))
    return sandbox


def _conda_shim(sandbox: Sandbox) -> str:
    # The prefix is for the reader of the list alone; quoting it for a shell inside double quotes is not
    # worth a rule.
    prefix = str(sandbox.qlib_python.parent.parent)
    shown = "".join(character for character in prefix if character not in '"$`\\')
    # RD-Agent takes the PATH that `conda run … env` prints: the interpreter's folder has to be on it.
    path = shlex.quote(sandbox.path(sandbox.qlib_python))
    named = CONDA_SHIM.replace("{environment}", CONDA_ENVIRONMENT).replace("{prefix}", shown)
    return named.replace("{path}", path)


def _qrun_shim(python: Path, script: Path) -> str:
    return QRUN_SHIM.format(python=shlex.quote(str(python)), script=shlex.quote(str(script)))


def _write_executable(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _offline_llm(url: str) -> dict[str, str]:
    return {
        "OPENAI_API_BASE": url,
        "OPENAI_API_KEY": "sk-scripted",
        "CHAT_MODEL": "openai/scripted-chat",
        "EMBEDDING_MODEL": "openai/scripted-embedding",
        # A proxy that is set for the outside world would be asked for the loopback as well.
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
        # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # RD-Agent repeats a refused request ten times; an answer that is not in the script never comes.
        "MAX_RETRY": "2",
    }


def _quiet_and_small() -> dict[str, str]:
    return {
        # mlflow 3 refuses the `./mlruns` file store that Qlib 0.9.7 writes to, unless told otherwise.
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        # RD-Agent's templates ask for 20 LightGBM threads. OMP_NUM_THREADS does not bound that, the thread
        # limit does.
        "OMP_NUM_THREADS": "2",
        "OMP_THREAD_LIMIT": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
