"""A Python that has loaded what RD-Agent imports, and runs code in forks of itself.

RD-Agent's import takes seconds, most of them LiteLLM's. Nothing of RD-Agent and nothing of ours is left in
this Python: a fork imports both anew, with or without the hook, as its environment and its path say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

_SERVER = """
import gc, importlib, json, os, signal, sys, traceback

gc.disable()  # for the forks, too: a collection would copy all that they share
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # some imports print
from rdagent_sota_bridge.bridge import seams
from tests import stacks

stacks.leave_out_source()
for seam in seams.SEAMS:
    importlib.import_module(seam.module)
for name in [*sys.modules]:
    if name.partition(".")[0] in ("rdagent", "rdagent_sota_bridge"):
        del sys.modules[name]
del seams, seam

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in enumerate(asked["streams"], start=1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.path[:0] = asked["path"]
        signal.alarm(300)
        status = 1
        try:
            import rdagent_sota_bridge
            rdagent_sota_bridge.register()  # as the .pth does
            exec(asked["code"], {"__name__": "__main__"})
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
            if isinstance(status, str):
                print(stop, file=sys.stderr)
                status = 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
os._exit(0)
"""


class Forks:
    """The Python, once it is asked for something; `close` ends it."""

    def __init__(self, folder: Path) -> None:
        """Prepare it; the folder, where it works, has no `.env`."""
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, code: str, *, folder: Path | None = None, path: tuple[Path, ...] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run code in a fork, and return its status and what it wrote.

        Args:
            code: The code, indented or not.
            folder: Where it runs; not given, in a folder of all.
            path: Folders before all others that Python imports from.
            variables: Further variables, beside those of this process now.
        """
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self._folder,
                env={**os.environ, "RDAGENT_SOTA_BRIDGE": "0"},
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as name:
            streams = [Path(name) / "stdout", Path(name) / "stderr"]
            asked = {
                "code": textwrap.dedent(code),
                "folder": str(folder or self._folder),
                "path": list(map(str, path)),
                "streams": list(map(str, streams)),
                "environment": {**os.environ, **variables},
            }
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            said = [stream.read_text(encoding="utf-8") for stream in streams]
        return subprocess.CompletedProcess(code, status, *said)

    def output(self, code: str, **how: Any) -> str:
        """Run code as `run` does, to a good end, and return what it printed."""
        done = self.run(code, **how)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.communicate()
