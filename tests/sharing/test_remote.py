"""What a server, a driver or a name that fails is shown as: one message, and no traceback."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import fsspec
import pytest

from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    LocateError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from rdagent_sota_bridge.sharing import remote
from tests import servers
from tests.frames import assert_survives_pickling
from tests.storage import Bucket


def look(url: str) -> LocateError:
    """Look at a URL, and return the error."""
    with pytest.raises(LocateError) as caught:
        remote.reach(url).look()
    assert_survives_pickling(caught.value)
    assert caught.value.fix
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize(
    ("scheme", "module", "fix"),
    [
        ("s3", "s3fs", "pip install 'rdagent-sota-bridge[s3]'"),
        ("gs", "gcsfs", "pip install 'rdagent-sota-bridge[gs]'"),
        ("hf", "huggingface_hub", "pip install 'rdagent-sota-bridge[hf]'"),
        ("https", "aiohttp", "pip install 'rdagent-sota-bridge[https]'"),
        ("sftp", "paramiko", "install it beside RD-Agent"),
    ],
)
def test_a_driver_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str, fix: str
) -> None:
    """One message names the extra that brings the driver, or a part of it that does not import."""
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})  # of drivers that were imported
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    error = look(f"{scheme}://bucket/run")
    assert (error.fact, error.fix) == (f"The driver for {scheme}:// is not installed", fix)


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("nosuch://bucket/run", "fsspec has no driver for nosuch://"),
        ("simplecache::s3://bucket/run", "Chained URLs are not taken"),
        ("zip://a::s3://bucket/run.zip", "Chained URLs are not taken"),
        ("s3://AKIA:sec/ret@bucket/run", "A URL with a password or a token in it is not taken"),
        ("https://alice:sec/ret@host/run", "A URL with a password or a token in it is not taken"),
        ("sftp://alice:sec/ret@host/run", "A URL with a password or a token in it is not taken"),
    ],
)
def test_a_url_that_can_not_be_taken(url: str, fact: str) -> None:
    """A scheme that nobody knows, a chain, and a password, which belongs to the driver's configuration."""
    error = look(url)
    assert error.fact == fact
    assert "sec/ret" not in str(error)


S3, WEB = "s3://bucket/a.parquet", "https://host/a.parquet"
UNKNOWN_ARGUMENT = '{"client_kwargs": {"nosuch": "topsecret"}, "use_listings_cache": true}'


@pytest.mark.parametrize(
    ("url", "variable", "value", "said"),
    [
        (S3, "FSSPEC_S3_ENDPOINT_URL", "minio:9000", "Invalid endpoint: ***"),
        (S3, "FSSPEC_S3_ENDPONT_URL", "http://minio:9000", "endpont_url"),
        (S3, "FSSPEC_S3_CONFIG_KWARGS", '{"nosuch": "topsecret"}', "nosuch"),
        (S3, "FSSPEC_S3_CONFIG_KWARGS", "topsecret", "not a mapping"),
        (S3, "AWS_PROFILE", "topsecret", "config profile (***)"),
        (WEB, "FSSPEC_HTTPS", UNKNOWN_ARGUMENT, "nosuch"),
        (WEB, "FSSPEC_HTTPS", '{"client_kwargs": 7}', "'int'"),
        ("http://127.0.0.1:9/a.parquet", "FSSPEC_HTTP", '{"nosuch": "topsecret"}', "nosuch"),
        ("data://x", "AWS_DEFAULT_REGION", "topsecret", "values to unpack"),
        ("reference://x", "AWS_DEFAULT_REGION", "topsecret", "'fo'"),
        ("dir://x", "AWS_DEFAULT_REGION", "topsecret", "NoneType"),
    ],
)
def test_settings_of_a_driver_that_mean_nothing(
    monkeypatch: pytest.MonkeyPatch, url: str, variable: str, value: str, said: str
) -> None:
    """What a driver can't work with is one message, which names the variables, and no values."""
    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.setenv(variable, value)
    error = look(url)
    assert said in error.fact
    assert variable in error.place
    for text in ("topsecret", "minio"):
        assert text not in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "no-such-host.invalid"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A port or name without a server is one that can't be reached, no missing file; IPv6 is no chain."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(remote, "WAITS", ())
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    if host.startswith("no"):
        monkeypatch.setattr(socket, "getaddrinfo", unknown)  # no test asks the machine's own resolver
    error = look(f"http://{host}:{port}/run/a.parquet")
    assert isinstance(error, RemoteUnavailableError)
    assert "not known" in error.fact or not host.startswith("no")


def test_tls(files: servers.Files) -> None:
    """TLS that fails is no server that is away: a copy is not used for it."""
    error = look(f"{files.url.replace('http', 'https')}/run/a.parquet")
    assert type(error) is RemoteError
    assert "TLS" in error.fact
    assert "SSL_CERT_FILE" in error.fix


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RemoteError),
        (401, RemoteRefusedError),
        (403, RemoteRefusedError),
        (404, FactorFileNotFoundError),
        (410, FactorFileNotFoundError),
        (429, RemoteUnavailableError),
        (500, RemoteUnavailableError),
        (503, RemoteUnavailableError),
    ],
)
def test_what_a_server_answers(files: servers.Files, status: int, kind: type[Exception]) -> None:
    """Each status is what it says, though fsspec makes a missing file of all; no secret is shown."""
    files.status = status
    error = look(f"{files.url}/run/a.parquet?sig=top%2Fsecret")
    assert type(error) is kind
    assert f"{files.url}/run/a.parquet?***" in error.place
    for secret in ("top%2Fsecret", "top/secret"):
        assert secret not in str(error)


def test_s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket, no object, a name that is none, no credentials: each is shown, and what to do."""
    error = look("s3://no-bucket/run/a.parquet")
    assert isinstance(error, FactorFileNotFoundError)
    assert "bucket does not exist" in error.place
    assert "a bucket that exists" in error.fix
    assert isinstance(look(bucket.url("run", "a.parquet")), FactorFileNotFoundError)
    assert "bucket name" in look("s3://No_bucket!/run/a.parquet").fact
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nothing")
    monkeypatch.setenv("AWS_CONFIG_FILE", "nothing")
    monkeypatch.setattr(fsspec.config, "conf", {})  # which keeps what the next line says
    monkeypatch.setenv("FSSPEC_S3_USE_SSL", "false")  # another instance than the one with credentials
    error = look(bucket.url("run", "a.parquet"))
    assert isinstance(error, RemoteRefusedError)
    assert "AWS_ACCESS_KEY_ID" in error.fix


def test_a_query_of_another_url(files: servers.Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a driver says of a URL that it was led to is shown without that one's signature."""
    thing = remote.reach(f"{files.url}/run/a.parquet")

    def fail(_: str) -> None:
        raise OSError("GET 'https://cdn/x?Signature=topsecret&Expires=1' failed") from ValueError(7)

    monkeypatch.setattr(thing.fs, "info", fail)
    with pytest.raises(RemoteError) as caught:
        thing.look()
    assert "topsecret" not in str(caught.value)


def test_a_scheme_in_capitals(tmp_path: Path) -> None:
    """A scheme is the same in capitals; a folder is no file."""
    (tmp_path / "a.parquet").write_bytes(b"content")
    assert remote.reach(f"FILE://{tmp_path}/a.parquet").look()[0] == 7
    assert isinstance(look(f"file://{tmp_path}"), FactorFileNotFoundError)
