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
        [
            "https://acc.blob.core.windows.net/c/x?sv=2022&se=2024-01-01T00:00:00Z&sig=a:b/c",
            "/x",
            "~/y",
            "./z",
        ],
        ["https://h/a?t=0:1", "https://h/b?t=0:2"],
        ["s3://arn:aws:s3:us-east-1:123:accesspoint/name/run", "/x"],
        ["https://user:p@ss@host/x", "/y"],
        ["https://u:pa:s/s@host/x", "/y@z"],
        ["http://[::1]:9000/x", "http://u:p@[fe80::1]/y", "/z"],
        ["s3://bucket/run", " https://u:p@h/x?a=1"],
        ["file:///a/exp#2", "file://rel/b@c", "/d"],
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
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://u:pa:s/s@host/x", "https://***@host/x"),
        ("https://u:p@s/s@host/x", "https://***@host/x"),
        ("https://u:pa?ss@host/x", "https://***@host/x"),
        ("https://u:pa#ss@host/x", "https://***@host/x"),
        ("https://u:pass@host:8080/npm/pkg@1.0/a", "https://***@host:8080/npm/pkg@1.0/a"),
        ("http://cdn:8080/npm/pkg@1.0/a", "http://cdn:8080/npm/pkg@1.0/a"),
        ("http://[::1]:9000/a@b", "http://[::1]:9000/a@b"),
        ("http://u:p@[::1]:9000/x", "http://***@[::1]:9000/x"),
        (
            "s3://arn:aws:s3:us-east-1:123:accesspoint/a/b@c",
            "s3://arn:aws:s3:us-east-1:123:accesspoint/a/b@c",
        ),
        ("file:///exp#2/a@b", "file:///exp#2/a@b"),
        ("file://C:/sets/a@b", "file://C:/sets/a@b"),
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
        "https://host/x#part",
        "https://host/x?X-Amz-Signature=1&X-Amz-Date=2",
        "https://host/x?AWSAccessKeyId=1&Signature=2&Expires=3",
        "https://host/x?X-Goog-Signature=1&X-Goog-Date=2",
        "https://host/x?GoogleAccessId=1&Signature=2&Expires=3",
        "https://host/x?Key-Pair-Id=1&Signature=2&Policy=3",
        "https://host/x?sv=1&sig=2&se=3&st=4&sp=r&sr=b&skoid=5",
    ):
        assert urls.key_of(same) == plain
    for other in ("https://host/y", "http://host/x", "https://host/x?versionId=1", "https://host/x?key=1"):
        assert urls.key_of(other) != plain


@pytest.mark.parametrize(
    "query", ["st=A", "se=A", "sp=A", "sv=A&sr=A", "expires=A", "policy=A", "set_token=A", "password=A", "x="]
)
def test_keys_of_what_only_looks_signed(query: str) -> None:
    """A name that a signature has, too, names the object where there is no such signature."""
    found = {urls.key_of(f"https://host/x{part}") for part in ("", f"?{query}", f"?{query}B")}
    assert len(found) == 3


def test_a_hash_is_part_of_a_path() -> None:
    """Where there are no fragments, `#` is a letter: the set in `exp#2` is not that in `exp`."""
    assert urls.inside("file:///exp#2", "a") == "file:///exp#2/a"
    assert urls.folder_of("s3://bucket/exp#2/a.parquet") == "s3://bucket/exp#2"
    assert urls.last_name("s3://bucket/a.parquet#2") == "a.parquet#2"
    assert urls.key_of("s3://bucket/exp#2") != urls.key_of("s3://bucket/exp")
    assert urls.inside("https://host/exp#2", "a") == "https://host/exp/a"


def test_chains() -> None:
    """A chain is told from an address with `::` in it."""
    assert urls.is_chained("simplecache::s3://bucket/run")
    assert urls.is_chained("zip://a::s3://bucket/run.zip")
    assert not urls.is_chained("http://[::1]:9000/x")
    assert not urls.is_chained("s3://bucket/a::b")


def test_names() -> None:
    """The last name, the folder, and a name in a folder; a query stays with the object."""
    assert urls.last_name("s3://bucket/run/a.parquet?x=1") == "a.parquet"
    assert urls.last_name("s3://bucket") == urls.last_name("s3://bucket/") == ""
    assert urls.last_name("file://run") == "run"
    assert urls.folder_of("https://u:p@h/a/b.parquet") == "https://u:p@h/a"
    assert urls.inside("s3://bucket/run/", "a") == "s3://bucket/run/a"
    assert urls.inside("s3://bucket/run?versionId=1", "a") == "s3://bucket/run/a?versionId=1"


def test_the_store_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in SOTA_STORE_PATH does not become a folder named `s3:`."""
    monkeypatch.setenv("SOTA_STORE_PATH", "s3://bucket/store")
    with pytest.raises(SettingsError, match="SOTA_STORE_PATH") as caught:
        read_settings()
    assert "not a URL" in caught.value.fix


@pytest.mark.parametrize("name", ["SOTA_WORKSPACE_PATH", "SOTA_LOG_PATH"])
def test_a_setting_that_means_nothing_shows_no_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The message about a list with an empty entry shows its URLs without their secrets."""
    monkeypatch.setattr(os, "pathsep", ":")
    monkeypatch.setenv(name, "https://alice:pa55word@host/x?sig=topsecret:")
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert "'https://***@host/x?***'" in str(caught.value)
    assert "pa55word" not in repr(caught.value)
    assert "topsecret" not in repr(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "/a::https://alice:pa55word@host/x?se=00:00:topsecret",
        "/a:: https://alice:pa55word@host/x?sig=b:/topsecret:/y",
        "/a::https://alice:pa55word?topsecret@host/x",
        "/a::https://alice:pa55word/topsecret@host/x",
    ],
)
def test_no_piece_of_a_url_is_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Whatever the separator cuts off, nothing behind a URL's first question mark is shown."""
    monkeypatch.setattr(os, "pathsep", ":")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    for secret in ("alice", "pa55word", "topsecret"):
        assert secret not in str(caught.value)
