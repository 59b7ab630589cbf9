"""RD-Agent in a child process, for one training or prediction; what it says lies beside the result."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rdagent_sota_bridge.system import child

OUTPUT = "sota_output.txt"
"""What RD-Agent and Qlib said, in the folder that they worked in."""

_LOG = "rdagent_log"  # RD-Agent's log folder, which is none of the project's


_LOOK_SECONDS = 0.5  # how often it is asked whether the result is still wanted


def call(
    function: str,
    folder: Path,
    *arguments: str,
    keep: tuple[int, ...] = (),
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Call a function of `bridge.again` with a folder and arguments; what it leaves in the folder counts.

    Args:
        function: Its name.
        folder: The folder.
        arguments: Further arguments.
        keep: Descriptors that stay open until all its processes are gone.
        is_wanted: Ends it where it says False.

    Raises:
        OSError: if nothing can be written there.
    """
    code = f"import sys; from rdagent_sota_bridge.bridge import again; again.{function}(*sys.argv[1:])"
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
