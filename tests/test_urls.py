"""The text of URLs: where they end in a list, what they name, and that no secret is shown."""

from __future__ import annotations

import os

import pytest

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import SettingsError
from rdagent_sota_bridge.settings import read_settings


@pytest.mark.parametrize(
    "entries",
    [
        ["s3://bucket/run", "/data/b", "~/c", "rel/d"],
        ["http://127.0.0.1:5000/x", "https://host/y", "http://host:80", "/z"],
        ["https://user:pass@host:9000/x?X-Amz-Signature=a%3Ab&c=d", "s3://a"],
        ["https://user@host/x", "gs://bucket"],
        ["memory://a/b", "file:///x/y", "file:///z"],
        ["hf://datasets/org/repo@main/run", "/a@b"],
        ["http://cdn:8080/npm/pkg@1.0/a", "b"],
        ["s3://KEY:sec/ret@bucket/x", "/y"],
        ["one"],
    ],
)
@pytest.mark.parametrize("separator", [":", ";"])
def test_lists(entries: list[str], separator: str) -> None:
    """Schemes, users, ports and queries stay whole, with either platform's separator."""
    assert urls.split_list(separator.join(entries), separator) == entries


def test_a_drive_is_no_scheme() -> None:
    """A Windows path has one letter before its colon."""
    assert not urls.is_url(r"C:\sets")
    assert not urls.is_url("C://sets")
    assert not urls.is_url("/sets/s3://x")
    assert urls.is_url("s3://bucket")
    assert urls.split_list(r"C:\sets;s3://bucket/x;D:\y", ";") == [r"C:\sets", "s3://bucket/x", r"D:\y"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/run", "s3://bucket/run"),
        ("https://alice:pa55@host:1/x", "https://***@host:1/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("https://host/x?sig=secret&a=1#part", "https://host/x?***"),
        ("s3://AKIA:sec/ret+x@bucket/x", "s3://***@bucket/x"),
        ("hf://datasets/org/repo@main/x", "hf://datasets/org/repo@main/x"),
        ("/a/path?x=1", "/a/path?x=1"),
    ],
)
def test_without_secrets(url: str, shown: str) -> None:
    """Users, passwords and queries are not shown; a revision and a path are."""
    assert urls.without_secrets(url) == shown


def test_what_a_driver_says() -> None:
    """A text about a URL loses the URL's secrets, each part of them, and nothing else."""
    url = "https://alice:pa55word@host/x?X-Amz-Signature=a%2Bb%2Fc&v=1"
    said = f"{url} failed: alice, pa55word, sig a+b/c and a%2Bb%2Fc at host, version 1"
    assert urls.without_secrets_in(said, url) == (
        "https://***@host/x?*** failed: ***, ***, sig *** and *** at host, version 1"
    )


def test_keys() -> None:
    """A signature, a user and a slash at the end make no other name; a version and a path do."""
    plain = urls.key_of("https://host/x")
    for same in (
        "https://host/x/",
        "HTTPS://host/x",
        "https://a:b@host/x",
        "https://host/x?X-Amz-Signature=1&Expires=2&sig=3&se=4&access_token=5",
    ):
        assert urls.key_of(same) == plain
    for other in ("https://host/y", "http://host/x", "https://host/x?versionId=1", "https://host/x?key=1"):
        assert urls.key_of(other) != plain


def test_names() -> None:
    """The last name, the folder, and a name in a folder; a query stays with the object."""
    assert urls.last_name("s3://bucket/run/a.parquet?x=1") == "a.parquet"
    assert urls.last_name("s3://bucket") == "bucket"
    assert urls.folder_of("https://u:p@h/a/b.parquet") == "https://u:p@h/a"
    assert urls.inside("s3://bucket/run/", "a") == "s3://bucket/run/a"
    assert urls.inside("s3://bucket/run?versionId=1", "a") == "s3://bucket/run/a?versionId=1"


def test_the_store_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in SOTA_STORE_PATH does not become a folder named `s3:`."""
    monkeypatch.setenv("SOTA_STORE_PATH", "s3://bucket/store")
    with pytest.raises(SettingsError, match="SOTA_STORE_PATH") as caught:
        read_settings()
    assert "not a URL" in caught.value.mend


@pytest.mark.parametrize("name", ["SOTA_WORKSPACE_PATH", "SOTA_LOG_PATH"])
def test_a_setting_that_means_nothing_shows_no_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The message about a list with an empty entry shows its URLs without their secrets."""
    monkeypatch.setattr(os, "pathsep", ":")
    monkeypatch.setenv(name, "https://alice:pa55word@host/x?sig=topsecret:")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert "'https://***@host/x?***:'" in str(caught.value)
    assert "pa55word" not in repr(caught.value)
    assert "topsecret" not in repr(caught.value)
