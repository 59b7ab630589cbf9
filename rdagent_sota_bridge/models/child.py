"""RD-Agent in a child process, for one training or prediction; what it says lies beside the result."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rdagent_sota_bridge.system import child

OUTPUT = "sota_output.txt"
"""What RD-Agent and Qlib said, in the folder that they worked in."""

_LOG = "rdagent_log"  # RD-Agent's log folder, which is none of the project's


def call(function: str, folder: Path, argument: str, keep: tuple[int, ...] = ()) -> None:
    """Call a function of `bridge.again` with a folder and an argument; what it leaves in the folder counts.

    Descriptors of `keep` stay open until all its processes are gone.

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
    command = [sys.executable, "-c", code, str(folder.absolute()), argument]
    with (
        (folder / OUTPUT).open("wb") as output,
        child.started(command, variables, Path.cwd(), output=output, keep=keep) as process,
    ):
        process.wait()
