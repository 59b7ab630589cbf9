"""A Python of its own, one that is killed at a chosen moment, a disk that is full or may only be read."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FICLONE = 0x40049409  # linux/fs.h

# --- a file ---


def state(path: Path) -> tuple[Any, ...]:
    """Return all that must not change of a file, but the count of its links."""
    status = path.stat()
    return path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_ino, status.st_mtime_ns


def can_clone(folder: Path) -> bool:
    """Return True where this file system has clones: asked of the kernel, not of the package."""
    with (folder / "a").open("wb+") as one, (folder / "b").open("wb+") as other:
        one.write(b"x" * 4096)
        one.flush()
        try:
            fcntl.ioctl(other.fileno(), FICLONE, one.fileno())
        except OSError:
            return False
        finally:
            (folder / "a").unlink()
            (folder / "b").unlink()
    return True


# --- a Python of its own ---


def elsewhere(function: Callable[..., Any], *arguments: object, mounts: bool = False) -> Any:
    """Call a function of a test module in a process of its own, and return what it returns (JSON).

    Args:
        function: It gets the arguments as text.
        arguments: What it gets.
        mounts: True if it needs to mount file systems of its own, where the machine lets it.
    """
    if mounts and can_mount():
        return _mounting(function, *map(str, arguments))
    _FORK_SERVER.set_forkserver_preload(["pandas", "pytest", "rdagent_sota_bridge.factor_set.store"])
    receive, send = _FORK_SERVER.Pipe(duplex=False)
    answering = (function, [*map(str, arguments)], {**os.environ, "CAN_MOUNT": ""}, send)
    process = _FORK_SERVER.Process(target=_answer, args=answering)
    process.start()
    send.close()
    with receive:
        assert receive.poll(300), "it does not end"
        said, answer = receive.recv()
    process.join()
    assert not said, said
    return json.loads(answer)


# Its processes are forks of a Python that has loaded pandas, and has no threads.
_FORK_SERVER = multiprocessing.get_context("forkserver")


def _answer(
    function: Callable[..., Any], arguments: list[str], environment: dict[str, str], send: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    said = answer = ""
    try:
        answer = json.dumps(function(*arguments))
    except BaseException:
        said = traceback.format_exc()
    send.send((said, answer))
    os._exit(0)  # Arrow's threads end badly now and then where the process that ends has forked


def _mounting(function: Callable[..., Any], *arguments: str) -> Any:
    code = (
        f"import json, os, sys; from {function.__module__} import {function.__name__} as function; "
        "print(json.dumps(function(*sys.argv[1:])), flush=True); os._exit(0)"
    )
    done = subprocess.run(
        ["unshare", "-Ur", "-m", sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "CAN_MOUNT": "yes"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def can_mount() -> bool:
    """Return True where a process may have mounts of its own (user namespaces)."""
    tried = ["unshare", "-Ur", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Let a folder have no room for more than so many bytes; for a process of its own (`mounts=True`).

    Where it may not mount, the limit is that of one file's size, which the kernel keeps as well.
    """
    if os.environ["CAN_MOUNT"]:
        with mounted(folder, f"size={size}"):
            yield
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount an empty file system in memory at a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the size of a mounted file system, or whether it may be written."""
    subprocess.run(["mount", "-o", f"remount,{options}", "none", str(folder)], check=True)


@contextlib.contextmanager
def other_file_system(folder: Path) -> Iterator[Path]:
    """Give a temporary folder on another file system than that of `folder`, and remove it after."""
    root = _other_root(folder)
    if root is None:
        pytest.skip("this machine has one file system alone")
    with tempfile.TemporaryDirectory(prefix="sota-bridge-", dir=root) as name:
        yield Path(name)


@contextlib.contextmanager
def another_disk(folder: Path) -> Iterator[Path]:
    """Give a temporary folder on another file system than that of `folder`, where there is another."""
    with tempfile.TemporaryDirectory(prefix="sota-bridge-", dir=_other_root(folder)) as name:
        yield Path(name)


def _other_root(folder: Path) -> Path | None:
    found = (
        root
        for root in (Path("/dev/shm"), Path(f"/run/user/{os.getuid()}"), Path("/tmp"), Path.home())
        if os.access(root, os.W_OK) and root.stat().st_dev != folder.stat().st_dev
    )
    return next(found, None)


# --- one that is killed ---

ROOMS = ("rdagent_sota_bridge", "filelock", "tempfile", "shutil", "pathlib")
_SYSTEM = frozenset({"posix", "fcntl", "_io", "io"})


class Moments:
    """Counts what a process does, and kills it with SIGKILL at a chosen count.

    A moment is the begin or the end of a call to the system or to a file, and of every function of the
    package, of the lock's and of the temporary files'. Set with `sys.setprofile`; nothing is replaced.
    Other rooms than `ROOMS` count these modules' moments alone.
    """

    def __init__(self, last: int, rooms: tuple[str, ...]) -> None:
        self.last = last
        self.rooms = rooms
        self.count = 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        """Take a moment as `sys.setprofile` reports it."""
        counts = frame.f_globals.get("__name__", "").split(".")[0] in self.rooms
        if event in ("c_call", "c_return") and (counts or self.rooms is ROOMS):
            owner = getattr(argument, "__module__", None) or type(argument.__self__).__module__
            counts = owner in _SYSTEM
        if counts:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def forked(
    function: Callable[[], Any],
    moment: int | None = 0,
    bytes_written: int = 0,
    rooms: tuple[str, ...] = ROOMS,
) -> tuple[int, Any]:
    """Call a function in a fork of this process; return its status, and what it returned if it lived.

    Args:
        function: What to call; it returns what JSON can hold.
        moment: Kill it at this moment (`Moments`); 0 for none, None where they need not be counted.
        bytes_written: Let the kernel kill it where a file has so many bytes; 0 for nowhere.
        rooms: The modules whose moments count.

    Returns:
        As `os.waitstatus_to_exitcode`: -9 if killed at a moment, -25 (SIGXFSZ) at a size; and the count of
        moments and what was returned.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receive)
            if bytes_written:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_written, bytes_written))
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            moments = Moments(moment or 0, rooms)
            sys.setprofile(None if moment is None else moments)
            returned = function()
            sys.setprofile(None)
            os.write(send, json.dumps([moments.count, returned]).encode())
        except BaseException as error:  # for the parent: a fork has no pytest
            sys.setprofile(None)
            os.write(send, json.dumps(f"{type(error).__name__}: {error}").encode())
            os._exit(1)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        seen = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(seen) if seen else None


def survived(function: Callable[[], Any]) -> Any:
    """Call a function in a fork of this process that nobody kills, and return what it returned."""
    status, seen = forked(function, moment=None)
    assert status == 0, seen
    return seen[1]


def spread(last: int, count: int) -> list[int]:
    """Return at most so many numbers from 1 to `last`, evenly."""
    return sorted({1 + round(step * (last - 1) / max(count - 1, 1)) for step in range(count)})
