"""A stand-in for Docker's engine: it speaks enough of its API for Docker's own client, and runs no container.

An entry runs in a copy of the workspace alone, in another folder; what else is mounted is linked in at its
place below a folder that stands for the container's root. What a bind mount would show afterwards is then
written back: into the files themselves, modes too, so that what a container does through a hard link reaches
the other names of the file here as it does there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.processes import kill_session

_NOWHERE = "/nowhere/of-the-container"


@dataclass
class Container:
    """One container, as it was asked for and as it ended.

    Attributes:
        command: Its entry, in words.
        mounts: From a folder of the host to (folder of the container, mode).
        variables: What RD-Agent handed in.
        workspace: The folder of the host that is the working directory.
        seen: What was in the workspace when it began: from a relative path to "file", "link" (to a place in
            the workspace) or "broken" (a link that leads out of it).
        output: What it printed.
        status: Its exit status.
    """

    command: list[str]
    mounts: dict[str, tuple[str, str]]
    variables: dict[str, str]
    workspace: Path
    working_dir: str
    wants_gpu: bool
    seen: dict[str, str] = field(default_factory=dict)
    output: bytes = b""
    status: int = -1
    done: threading.Event = field(default_factory=threading.Event)


class Engine:
    """The engine, as a context manager: it listens on loopback inside the block; `url` is for `DOCKER_HOST`.

    At the end of the block nothing is left: entries that still run are killed, with all that they started.

    Attributes:
        image: The environment that the image has: `PATH`, and what else a test needs.
        containers: Every container that was started, in order.
    """

    def __init__(self, image: Mapping[str, str]) -> None:
        """Prepare it."""
        self.image = dict(image)
        self.containers: list[Container] = []
        self._created: list[Container] = []
        self._workers: list[threading.Thread] = []
        self._entries: list[subprocess.Popen[bytes]] = []
        self._ending = False
        self._lock = threading.Lock()  # an entry that starts while the block ends is killed too
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """What `DOCKER_HOST` has to say."""
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Engine:
        """Start to listen."""
        self._folder = tempfile.TemporaryDirectory(prefix="container-")
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            self._ending = True
        for worker in self._workers:
            while worker.is_alive():  # what was being forked while it was killed is killed now
                with self._lock:
                    for entry in self._entries:
                        kill_session(entry.pid)
                worker.join(0.1)
        self._folder.cleanup()

    def started(self, text: str) -> list[Container]:
        """Return the containers with a text in their command."""
        return [one for one in self.containers if text in " ".join(one.command)]

    def create(self, asked: dict[str, Any]) -> int:
        """Take an order for a container, and return its number."""
        host = asked["HostConfig"]
        mounts = {}
        for bind in host.get("Binds") or ():
            place, inside, mode = bind.rsplit(":", 2)
            mounts[place] = (inside, mode)
        working_dir = asked.get("WorkingDir") or "/"
        at = [place for place, (inside, _) in mounts.items() if inside.rstrip("/") == working_dir.rstrip("/")]
        variables = dict(one.split("=", 1) for one in asked.get("Env") or ())
        wants_gpu = bool(host.get("DeviceRequests"))
        workspace = Path(at[0]) if at else Path(_NOWHERE)
        self._created.append(
            Container(list(asked["Cmd"]), mounts, variables, workspace, working_dir, wants_gpu)
        )
        return len(self._created) - 1

    def container(self, number: int) -> Container:
        """Return a container by its number."""
        return self._created[number]

    def start(self, number: int) -> str:
        """Start a container; return why it can't be started, empty if it can."""
        container = self._created[number]
        if container.wants_gpu:
            return 'could not select device driver "" with capabilities: [[gpu]]'
        worker = threading.Thread(target=self._run, args=(container,), daemon=True)
        with self._lock:
            if self._ending:
                return "the engine ends"
            self.containers.append(container)
            self._workers.append(worker)
            worker.start()
        return ""

    def _run(self, container: Container) -> None:
        # One place for all containers of a workspace: what the first writes down of paths holds in the next,
        # as it does where the workspace is always mounted at one place.
        root = Path(self._folder.name).resolve() / hashlib.md5(str(container.workspace).encode()).hexdigest()
        try:
            self._run_below(container, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            container.done.set()

    def _run_below(self, container: Container, root: Path) -> None:
        copy = root / container.working_dir.strip("/")
        shutil.copytree(container.workspace, copy, symlinks=True)
        for place, (inside, _) in container.mounts.items():
            target = root / inside.strip("/")
            if target.is_relative_to(copy):  # RD-Agent's cache, which the engine makes a folder for
                target.mkdir(exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(place)
        container.seen = _without_links_out(copy)
        command = [word.replace(container.working_dir, f"{copy}/") for word in container.command]
        variables = {**self.image, **container.variables, "HOME": str(root / "root")}
        with self._lock:
            if self._ending:
                return
            entry = subprocess.Popen(
                command, cwd=copy, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self._entries.append(entry)
        assert entry.stdout is not None
        with entry.stdout:
            container.output = entry.stdout.read()
        os.waitid(os.P_PID, entry.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # once it is waited for, its id may be another's, which must not be killed
            container.status = entry.wait()
            self._entries.remove(entry)
        if not self._ending:
            _write_back(copy, container.workspace)


def _without_links_out(copy: Path) -> dict[str, str]:
    """Let what leads out of a folder lead nowhere, as in a container, and return what the folder holds."""
    seen = {}
    for entry in sorted(copy.rglob("*")):
        kind = "file" if entry.is_file() else "folder"
        if entry.is_symlink():
            kind = "link"
            if not entry.resolve().is_relative_to(copy) or entry.readlink().is_absolute():
                kind = "broken"
                entry.unlink()
                entry.symlink_to(_NOWHERE)
        if kind != "folder":
            seen[str(entry.relative_to(copy))] = kind
    return seen


def _write_back(copy: Path, workspace: Path) -> None:
    for entry in sorted(copy.rglob("*")):
        original = workspace / entry.relative_to(copy)
        if entry.is_symlink():
            if not original.exists() and not original.is_symlink():
                original.symlink_to(entry.readlink())
        elif entry.is_dir():
            original.mkdir(exist_ok=True)
        else:
            then, now = original.stat() if original.exists() else None, entry.stat()
            if then is None or (then.st_size, then.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
                with entry.open("rb") as source, original.open("wb") as target:  # through a link, as there
                    shutil.copyfileobj(source, target)
        if not entry.is_symlink():
            original.chmod(entry.stat().st_mode)


def _handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = self._parts()
            if parts == ["version"]:
                self._json(200, {"ApiVersion": "1.43", "Version": "24.0.0"})
            elif parts[0] == "images":
                self._json(200, {"Id": "sha256:0", "RepoTags": ["local_qlib:latest"]})
            elif parts[2] == "json":
                told = {"Id": parts[1], "Name": f"/stand-in-{parts[1]}", "Config": {"Tty": False}}
                self._json(200, {**told, "State": {"Status": "running"}})
            else:
                self._logs(engine.container(int(parts[1])))

        def do_POST(self) -> None:
            body = self._body()
            parts = self._parts()
            if parts == ["build"]:
                self._stream(b'{"stream":"Successfully tagged local_qlib:latest"}\r\n')
            elif parts == ["containers", "create"]:
                self._json(201, {"Id": str(engine.create(json.loads(body))), "Warnings": []})
            elif parts[2] == "start":
                why = engine.start(int(parts[1]))
                self._json(500, {"message": why}) if why else self._send(204, b"")
            elif parts[2] == "wait":
                container = engine.container(int(parts[1]))
                container.done.wait()
                self._json(200, {"StatusCode": container.status})
            else:
                self._send(204, b"")

        def do_DELETE(self) -> None:
            self._send(204, b"")

        def _parts(self) -> list[str]:
            parts = self.path.partition("?")[0].strip("/").split("/")
            return parts[1:] if parts[0].startswith("v1.") else parts

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _logs(self, container: Container) -> None:
            container.done.wait()
            lines = container.output.splitlines(keepends=True)
            frames = b"".join(struct.pack(">BxxxL", 1, len(line)) + line for line in lines)
            self._send(200, frames, "application/vnd.docker.raw-stream")

        def _stream(self, content: bytes) -> None:
            # Docker's client hands on pieces of bytes only where the answer comes in chunks.
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))

        def _json(self, status: int, content: Any) -> None:
            self._send(status, json.dumps(content).encode())

        def _send(self, status: int, content: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
