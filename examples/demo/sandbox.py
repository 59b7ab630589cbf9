"""A folder in which the real `rdagent` runs without conda, Docker or the user's own settings."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

# RD-Agent asks for this environment by name (`QlibCondaConf` in `rdagent/utils/env.py`, 0.8.0 and 1.0.0).
CONDA_ENVIRONMENT = "rdagent4qlib"

# What a child may inherit: a forgotten QLIB_FACTOR_TRAIN_START would make another experiment of a command.
INHERITED = (
    "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
FIXED = {
    "OPENAI_API_KEY": "sk-scripted",
    "CHAT_MODEL": "openai/scripted-chat",
    "EMBEDDING_MODEL": "openai/scripted-embedding",
    # A proxy that is set for the outside world would be asked for the loopback as well.
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    # RD-Agent repeats a refused request ten times; an answer that is not in the script never comes.
    "MAX_RETRY": "2",
    # mlflow 3 refuses the `./mlruns` file store that Qlib 0.9.7 writes to, unless this is set.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    # RD-Agent's templates ask for 20 LightGBM threads: the thread limit alone bounds that.
    "OMP_NUM_THREADS": "2",
    "OMP_THREAD_LIMIT": "2",
    # Threads that wait for each other sleep: else trainings beside each other use up a machine of few cores.
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Of every run: an LLM on the loopback, no telemetry, few threads."""

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
        -n)
            [ "$2" = {environment} ] || break
            shift 2
            ;;
        --no-capture-output) shift ;;
        *) PATH={path} exec "$@" ;;
        esac
    done
    ;;
esac
echo "conda stand-in of rdagent-sota: cannot do: conda $*" >&2
exit 2
"""

FACTOR_PYTHON = "python_of_factor"
_QRUN = Path(__file__).with_name("qrun.py").resolve()


@dataclass(frozen=True)
class Sandbox:
    """One folder with all that a run of `rdagent` reads and writes; Qlib's Python may be the same one."""

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
        return (self.bin / "qrun").is_file()

    @property
    def provider(self) -> Path:
        """Where RD-Agent's templates look for Qlib's data (`provider_uri: "~/.qlib/qlib_data/cn_data"`)."""
        return self.home / ".qlib" / "qlib_data" / "cn_data"

    def environment(self, llm_url: str, **extra: str) -> dict[str, str]:
        """The whole environment of an `rdagent` in `project`; `llm_url` has `/v1`, `extra` wins."""
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "PATH": self.path(self.python),
            "HOME": str(self.home),
            "FACTOR_CoSTEER_PYTHON_BIN": FACTOR_PYTHON,
            "OPENAI_API_BASE": llm_url,
            **FIXED,
            **extra,
        }

    def path(self, python: Path) -> str:
        """PATH with the stand-ins first, then an interpreter's folder."""
        return os.pathsep.join([str(self.bin), str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])


def create(
    folder: Path, *, python: str | Path = sys.executable, qlib_python: str | Path | None = None
) -> Sandbox:
    """Make a sandbox; in an existing one only the stand-ins are written anew.

    Args:
        folder: Where.
        python: The interpreter of the environment that holds rdagent.
        qlib_python: That of the environment that conda gives to Qlib, where it is another one.

    Raises:
        ValueError: A path can't stand on PATH: a colon ends an entry, and at an equals sign RD-Agent cuts the
            PATH that it reads (`CondaConf` in `rdagent/utils/env.py`, 0.8.0 and 1.0.0).
    """
    # Not resolved: a virtual environment's python is a link to one that lacks the packages.
    qlib = Path(qlib_python or python).absolute()
    sandbox = Sandbox(Path(folder).absolute(), Path(python).absolute(), qlib)
    for path in (sandbox.bin, sandbox.python.parent, qlib.parent):
        if set(":=") & set(str(path)):
            raise ValueError(f"a sandbox needs paths without ':' and '=', for they go on PATH: {path}")

    for place in (sandbox.home, sandbox.project, sandbox.bin):
        place.mkdir(parents=True, exist_ok=True)
    # RD-Agent takes the PATH that `conda run … env` prints: the interpreter's folder has to be on it.
    shims = {
        "conda": CONDA_SHIM.format(
            environment=CONDA_ENVIRONMENT,
            prefix=re.sub(r'["$`\\]', "", str(qlib.parent.parent)),
            path=shlex.quote(sandbox.path(qlib)),
        ),
        "qrun": f'#!/bin/sh\nexec {shlex.quote(str(qlib))} {shlex.quote(str(_QRUN))} "$@"\n',
        # RD-Agent starts factor code with `f"{python_bin} {path}"` in a shell, unquoted
        # (`FactorFBWorkspace.execute` in `rdagent/components/coder/factor_coder/factor.py`, 0.8.0 and 1.0.0):
        # a path with spaces arrives in pieces.
        FACTOR_PYTHON: f'#!/bin/sh\nexec {shlex.quote(str(sandbox.python))} "$*"\n',
    }
    for name, text in shims.items():
        shim = sandbox.bin / name
        shim.write_text(text, encoding="utf-8")
        shim.chmod(0o755)
    return sandbox
