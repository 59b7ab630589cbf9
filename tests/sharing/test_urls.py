"""The text of URLs: where they end in a list, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import SettingsError
from rdagent_sota_bridge.settings import path_entries, read_settings


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("one", ["one"]),
        ("/a b/c: ./d :~/e", ["/a b/c", "./d", "~/e"]),
        ("s3://bucket/run", ["s3://bucket/run"]),
        (" s3://a/x  s3://b/y ", ["s3://a/x", "s3://b/y"]),
        ("/my sets/a:/b s3://c/d ./e", ["/my sets/a", "/b", "s3://c/d", "./e"]),
        ("http://127.0.0.1:5000/x http://[::1]:9000/y", ["http://127.0.0.1:5000/x", "http://[::1]:9000/y"]),
        ("https://h/x?t=0:/1&u=https://other /y", ["https://h/x?t=0:/1&u=https://other", "/y"]),
        (
            "s3://arn:aws:s3:us-east-1:123:accesspoint/n/run",
            ["s3://arn:aws:s3:us-east-1:123:accesspoint/n/run"],
        ),
    ],
)
def test_lists(monkeypatch: pytest.MonkeyPatch, text: str, entries: list[str]) -> None:
    """Blanks part URLs from the rest; paths are parted as in PATH, and may have blanks."""
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", text)
    assert (
        urls.split_list(text) == entries == list(read_settings().workspace_paths) == list(path_entries(text))
    )


@pytest.mark.parametrize(
    "value",
    [
        "s3://a/x:s3://b/y",
        "s3://a/x:/own",
        "/own:s3://a/x",
        "https://h/x:~/own",
        "s3://a:",
        "simplecache::s3://bucket/run",
        "zip://a::s3://bucket/run.zip",
        "/a: https://host/x",
        "/a:: https://alice:pa55word@host/x?sig=topsecret",
        ":https://alice:pa55word/topsecret@host/x",
    ],
)
def test_a_list_that_means_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A URL without blanks around it, as older releases had it, is refused, and nothing of it is shown."""
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert "blanks between it" in caught.value.fix or "is empty" in caught.value.fix
    for secret in ("alice", "pa55word", "topsecret"):
        assert secret not in repr(caught.value)


def test_what_is_a_url() -> None:
    """A Windows path has one letter before its colon."""
    assert [urls.is_url(text) for text in ("s3://b", "C:\\sets", "C://sets", "/x/s3://y")] == [
        True,
        *[False] * 3,
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/run", None),
        ("http://cdn:8080/npm/pkg@1.0/a", None),
        ("http://[::1]:9000/a@b", None),
        ("s3://arn:aws:s3:us-east-1:123:accesspoint/a/b@c", None),
        ("file:///exp#2/a@b", None),
        ("hf://datasets/org/repo@main/x", None),
        ("sftp://mike@host/x", None),
        ("abfs://container@account.dfs.core.windows.net/x", None),
        ("/a/path?x=1", None),
        ("https://host/x?sig=secret&a=1#part", "https://host/x?***"),
        ("https://host/x#secret?a", "https://host/x"),
    ],
)
def test_without_secrets(url: str, shown: str | None) -> None:
    """Queries are not shown; a revision, a path and a name at a host without tokens are."""
    assert urls.without_secrets(url) == (shown or url)
    assert not urls.is_url(url) or not urls.has_password(url)


@pytest.mark.parametrize(
    "rest",
    [
        "alice:pa55@host:1/x",
        "pa55@host/x",
        "u:p@ss@host/x",
        "u:pa:s/s@host/x",
        "u:pa?ss@host/x",
        "u:pa#ss@h",
        "u:pa",
    ],
)
@pytest.mark.parametrize("scheme", ["https", "s3", "sftp"])
def test_a_password(scheme: str, rest: str) -> None:
    """A URL with a password or a token before its host is known, and nothing behind its scheme is shown."""
    if scheme == "sftp" and rest.startswith("pa55@"):
        return  # a user's name
    assert urls.has_password(f"{scheme}://{rest}")
    assert urls.without_secrets(f"{scheme}://{rest}") == f"{scheme}://***"


def test_a_folder_of_one_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first of two entries where it is there, and else a Windows drive."""
    monkeypatch.chdir(tmp_path)
    assert urls.split_list("a:/b") == ["a:/b"]
    (tmp_path / "a").mkdir()
    assert urls.split_list("a:/b") == ["a", "/b"]
