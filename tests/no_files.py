"""What is no file where a file is meant: reading a pipe waits for ever, and reading a device never ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have a hundred letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "folder": Path.mkdir,
}

REASONS = dict.fromkeys(NO_FILES, "It is a pipe, a socket or a device, and no file")
REASONS["folder"] = "Is a directory"


def put_no_file(path: Path, kind: str) -> Path:
    """Put what is no file in the place of a file, and return the path."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    NO_FILES[kind](path)
    return path


@contextmanager
def ending() -> Iterator[None]:
    """Let a block fail where it waits for ever."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(100)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
