"""An S3 bucket behind a proxy, for the tests of shared storage."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.sharing import fetch
from tests import servers
from tests.frames import factor_frame, nested, write


@dataclass(frozen=True)
class Bucket:
    """A bucket that is new.

    Attributes:
        name: Its name.
        proxy: What stands before the server; the environment names it as the endpoint.
        fs: A file system that goes past the proxy.
    """

    name: str
    proxy: servers.Proxy
    fs: Any

    def url(self, *parts: str) -> str:
        """Return a URL in the bucket."""
        return "/".join([f"s3://{self.name}", *parts])

    def put(self, file: Path, *parts: str) -> str:
        """Put a file into a folder, and return the folder's URL."""
        self.fs.pipe("/".join([self.name, *parts, "combined_factors_df.parquet"]), file.read_bytes())
        return self.url(*parts)


@dataclass(frozen=True)
class Storage:
    """An S3 server, what stands before it, and a file system that goes past that."""

    proxy: servers.Proxy
    fs: Any


@contextmanager
def running() -> Iterator[Storage]:
    """Run an S3 server behind a proxy; fsspec's configuration is afterwards what it was."""
    import fsspec

    before = {protocol: dict(options) for protocol, options in fsspec.config.conf.items()}
    werkzeug = logging.getLogger("werkzeug")
    level = werkzeug.level
    werkzeug.setLevel(logging.ERROR)  # a line a request
    with servers.s3_server() as port:
        fs = fsspec.filesystem(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", key=servers.KEY, secret=servers.SECRET
        )
        proxy = servers.Proxy(port)
        try:
            yield Storage(proxy, fs)
        finally:
            proxy.close()
            werkzeug.setLevel(level)
            fsspec.config.conf.clear()
            fsspec.config.conf.update(before)


@contextmanager
def new_bucket(storage: Storage, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Make a bucket, and let fsspec find it by the environment."""
    for variable, value in servers.ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://127.0.0.1:{storage.proxy.port}")
    storage.fs.call_s3("create_bucket", Bucket=name)
    storage.proxy.open()
    yield Bucket(name, storage.proxy, storage.fs)
    storage.proxy.open()


def factor_file(folder: Path, *, seed: int = 7, days: int = 600) -> Path:
    """Write a set of about half a megabyte, as RD-Agent writes it, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = factor_frame(
        days=pd.bdate_range("2016-01-04", periods=days),
        instruments=[f"SH{600000 + number}" for number in range(40)],
        seed=seed,
    )
    return write(nested(frame), folder)


# --- what is fetched ---


def get(url: str, place: Path, lines: list[str] | None = None) -> Located:
    """Fetch a URL."""
    return fetch.fetch(url, place, (lines if lines is not None else []).append)


def serve(files: servers.Files, file: Path) -> str:
    """Let the web server give a set, and return the URL of its folder."""
    files.contents[f"/run/{FACTOR_FILE}"] = file.read_bytes()
    return f"{files.url}/run"


def left(place: Path) -> list[Path]:
    """Return what a store holds of fetches that broke off, and temporary files."""
    return [file for file in (place / store.FETCHED).iterdir() if ".part" in file.name or ".tmp" in file.name]


@contextmanager
def in_the_middle(bucket: Bucket, source: Path, act: Callable[[], object]) -> Iterator[None]:
    """Do something once half of a set has moved."""
    done = list[int]()

    def watch(received: int) -> None:
        if received > source.stat().st_size // 2 and not done:
            done.append(received)
            act()

    bucket.proxy.count()
    bucket.proxy.on_bytes = watch
    yield
    assert done


def manifest_of(file: Path, **changes: object) -> bytes:
    """Return the manifest that a push of a file writes, or nearly."""
    content = {
        "set_manifest_version": 1,
        "state": "complete",
        "digest": f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}",
        "size": file.stat().st_size,
        "metrics": {"IC": 0.05, "ICIR": None},
        "origin": {"accepted": True},
    }
    return json.dumps({**content, **changes}).encode()
