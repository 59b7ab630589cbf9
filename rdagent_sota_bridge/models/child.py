"""RD-Agent in a child process, for one training or script; what it says lies beside the result."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.errors import ResultError, shortened
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.system import child, files

OUTPUT = "sota_output.txt"
"""What RD-Agent and Qlib said, in the folder that they worked in."""

REQUEST, ANSWER = "sota_request.json", "sota_answer.json"
"""What a script of ours is asked, and what it leaves, in the folder that it works in."""

MAKE_ROOM = "make the files readable and writable for you, with room on the disk"
"""The fix where the file system refuses."""

_SCRIPTS = resources.files("rdagent_sota_bridge.qlib_side")
_LOG = "rdagent_log"  # RD-Agent's log folder, which is none of the project's

_LOOK_SECONDS = 0.5  # how often it is asked whether the result is still wanted


def call(
    function: str,
    folder: Path,
    *arguments: str,
    keep: tuple[int, ...] = (),
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Call a function of `again` with a folder and arguments; what it leaves in the folder counts.

    Args:
        function: Its name.
        folder: The folder.
        arguments: Further arguments.
        keep: Descriptors that stay open until all its processes are gone.
        is_wanted: Ends it where it says False.

    Raises:
        OSError: if nothing can be written there.
    """
    code = f"import sys; from rdagent_sota_bridge.models import again; again.{function}(*sys.argv[1:])"
    variables = {
        **os.environ,
        "LOG_TRACE_PATH": str(folder.absolute() / _LOG),
        # No seam is needed: there is no loop, and no coder of RD-Agent's that empties Docker's mounts.
        "RDAGENT_SOTA_BRIDGE": "0",
        # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    command = [sys.executable, "-c", code, str(folder.absolute()), *arguments]
    with (
        (folder / OUTPUT).open("wb") as output,
        child.started(command, variables, Path.cwd(), output=output, keep=keep) as process,
    ):
        while is_wanted():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SECONDS)
                break


@contextlib.contextmanager
def folder_in(of: Path, fact: str) -> Iterator[Path]:
    """Yield a new folder in a model's workspace, which is removed at the end, or a day later.

    Raises:
        StoreError: with the fact, if a file can't be read or written.
    """
    with store.failing_at(of, (fact, MAKE_ROOM)), files.new_folder(of, ".sota-") as folder:
        yield folder


def script_text(name: str) -> str:
    """Return the text of a file of `qlib_side`."""
    return (_SCRIPTS / name).read_text(encoding="utf-8")


def _lay_script(folder: Path, script: str, request: object) -> None:
    (folder / script).write_text(script_text(script), encoding="utf-8")
    (folder / REQUEST).write_text(json.dumps(request, default=str), encoding="utf-8")


def run_script(
    folder: Path,
    script: str,
    request: object,
    python: str,
    env: Mapping[str, str],
    say: Callable[[str], object] = lambda _: None,
) -> tuple[Any, str]:
    """Run a script of `qlib_side` with a Python that has Qlib.

    Args:
        folder: Where it works, and keeps its temporary files.
        script: Its name.
        request: What it is asked; dates become text.
        python: The Python.
        env: Its environment.
        say: Gets each line that it says.

    Returns:
        What it left, None where it did not end well; and its status with the last line that it said.
    """
    _lay_script(folder, script, request)
    lines, rest = [""], b""
    with child.started([python, script], {**env, "TMPDIR": str(folder)}, folder) as process:
        for piece in child.output(process):
            *whole, rest = (rest + piece).split(b"\n")
            for line in [one.decode("utf-8", errors="replace") for one in whole]:
                lines = [line] if line.strip() else lines
                say(line)
        status = process.wait()
    return None if status else _answer(folder), f"status {status}: {shortened(lines[0])}"


def ask_qlib(folder: Path, script: str, request: object, fact: str) -> Any:
    """Return what a script of `qlib_side` answers in Qlib's environment.

    Args:
        folder: Where it works, in a model's workspace, which keeps what Qlib said if it left nothing.
        script: Its name.
        request: What it is asked.
        fact: What is wrong where it left nothing.

    Raises:
        ResultError: if it left nothing.
    """
    _lay_script(folder, script, request)
    call("run_in_qlib", folder, script)
    answer = _answer(folder)
    if answer is None:
        said = (folder / OUTPUT).replace(folder.parent / Path(script).with_suffix(".txt"))
        raise ResultError(fact, str(said), "see what Qlib says there")
    return answer


def _answer(folder: Path) -> Any:
    file = folder / ANSWER
    return files.read_json(file) if file.is_file() else None
