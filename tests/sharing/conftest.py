"""Servers for the tests of sharing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdagent_sota_bridge.sharing import remote
from tests import servers, storage
from tests.storage import Bucket


@pytest.fixture(scope="session")
def server() -> Iterator[storage.Storage]:
    """Run one S3 server."""
    with storage.running() as made:
        yield made


@pytest.fixture
def bucket(
    server: storage.Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """Give a bucket of the test's own."""
    name = hashlib.md5(request.node.nodeid.encode()).hexdigest()
    with storage.new_bucket(server, name, monkeypatch) as made:
        yield made


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Files]:
    """Give an HTTP server, and no waiting."""
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    with servers.http_server() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the folder of a store that is not there yet."""
    return tmp_path / "a store"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a set of half a megabyte."""
    return storage.factor_file(tmp_path / "mined")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return another set of as many bytes."""
    return storage.factor_file(tmp_path / "other", seed=8)
