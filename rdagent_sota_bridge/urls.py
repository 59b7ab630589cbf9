"""The text of a URL: what is one, where it ends in a list, what it names, how it is shown without secrets."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

HIDDEN = "***"
"""What stands in a shown URL in place of a secret."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")  # two letters at least: C:// is a drive
_CHAIN = re.compile(r"[A-Za-z0-9+.\-]+::|.*::[A-Za-z0-9+.\-]+://", re.DOTALL)
_NO_HOST = ("file", "local", "memory")  # all of such a URL is a path
_WITH_FRAGMENT = ("http", "https")  # elsewhere `#` is a letter of the path
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?")  # an IPv6 address has brackets
_LONE = re.compile(r"arn:|[A-Za-z]:$")  # a colon that parts no user from a password: an ARN, a drive
# What names the signers of a query, and by which of its names each is known: what they add changes from one
# URL of an object to the next, and so it is no part of what the URL names.
_SIGNERS = (
    ({"x-amz-signature"}, re.compile(r"x-amz-.*")),
    ({"awsaccesskeyid", "signature"}, re.compile(r"awsaccesskeyid|signature|expires|x-amz-security-token")),
    ({"x-goog-signature"}, re.compile(r"x-goog-.*")),
    ({"googleaccessid", "signature"}, re.compile(r"googleaccessid|signature|expires")),
    ({"key-pair-id", "signature"}, re.compile(r"key-pair-id|signature|expires|policy|hash-algorithm")),
    ({"sig", "sv"}, re.compile(r"s[eprvt]|spr|sig|sip|ss|srt|sk(?:oid|tid|t|e|s|v)")),  # Azure
)


@dataclass(frozen=True)
class _Parts:
    """The parts of a URL; put together they are the URL, without its fragment.

    Attributes:
        scheme: With `://`.
        user: User and password, with the `@`; empty without.
        rest: Host and path.
        query: Without the `?`.
    """

    scheme: str
    user: str
    rest: str
    query: str


def is_url(text: str) -> bool:
    """Return True for a text that begins with `scheme://`."""
    return _SCHEME.match(text) is not None


def is_chained(text: str) -> bool:
    """Return True for one of fsspec's chains of URLs, such as `simplecache::s3://bucket/run`."""
    return _CHAIN.match(text) is not None


def split_list(text: str, separator: str | None = None) -> list[str]:
    """Split a list of paths and URLs at a separator; None for the platform's.

    That of a URL's scheme, user, host or port is part of the URL; one in its path is not. In a query it is,
    unless it is followed by what begins another entry (`scheme://`, `/`, `~`, `.`, a drive) or by the end.
    """
    separator = os.pathsep if separator is None else separator
    found, at = [], 0
    while True:
        end = _entry_end(text, at, separator)
        found.append(text[at:end])
        if end == len(text):
            return found
        at = end + 1


def _entry_end(text: str, start: int, separator: str) -> int:
    """Return where the entry that begins at a place ends."""
    at = start + len(text[start:]) - len(text[start:].lstrip())
    scheme = _SCHEME.match(text, at)
    if scheme is None:
        return _found(text, separator, at)
    at = scheme.end()
    another = re.compile(rf"{separator}\s*(?:{_SCHEME.pattern}|[/~.]|[A-Za-z]:[\\/]|$)")
    if scheme_of(scheme.group()) not in _NO_HOST:
        # Up to where the next entry begins for sure.
        certain = another.search(text, at)
        piece = text[at : len(text) if certain is None else certain.start()]
        at += _user_end(piece, to_last=False)
        host = re.match(r"arn:[^/?\s]*" if text.startswith("arn:", at) else r"\[[^\]]*\]", text[at:])
        at = at + host.end() if host is not None else at
        port = re.compile(rf"[^/?#{separator}]*:\d+(?=[/?#:;]|$)").match(text, at)
        at = port.end() if port is not None else at
    end = _found(text, separator, at)
    query = text.find("?", at, end)
    if query < 0:
        return end
    certain = another.search(text, query)
    return len(text) if certain is None else certain.start()


def _found(text: str, separator: str, start: int) -> int:
    at = text.find(separator, start)
    return len(text) if at < 0 else at


def _user_end(text: str, *, to_last: bool) -> int:
    """Return where host and path begin in what follows a URL's scheme: behind the user, if there is one.

    Args:
        text: The URL without its scheme.
        to_last: A password may hold whatever it likes, and nobody knows where it ends: True takes it to the
            last `@` that it could end with, for what is hidden; False for what a driver takes.
    """
    authority = re.split(r"[/?#]", text, maxsplit=1)[0]
    if _LONE.match(authority):
        return 0
    if "@" in authority:
        end = authority.rindex("@") + 1
        # What comes behind a port is a path for sure, and so is all of it where there is no password.
        sure = re.search(r":\d+$", authority[end:]) or ":" not in authority[:end]
        return end if sure or not to_last else text.partition("?")[0].rindex("@") + 1
    if _HOST.fullmatch(authority) or "@" not in text:
        return 0
    return (text.rindex("@") if to_last else text.index("@")) + 1


def _parts(url: str, *, to_last: bool = False) -> _Parts | None:
    scheme = _SCHEME.match(url)
    if scheme is None:
        return None
    name, rest, user = scheme_of(url), url[scheme.end() :], ""
    if name not in _NO_HOST:
        end = _user_end(rest, to_last=to_last)
        user, rest = rest[:end], rest[end:]
    if name in _WITH_FRAGMENT:
        rest = rest.partition("#")[0]
    rest, _, query = rest.partition("?")
    return _Parts(scheme.group(), user, rest, query)


def scheme_of(url: str) -> str:
    """Return the scheme, in small letters."""
    return url.partition("://")[0].lower()


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown and kept: without user, password, values of its query, and fragment."""
    parts = _parts(url, to_last=True)
    if parts is None:
        return url
    user = f"{HIDDEN}@" if parts.user else ""
    query = f"?{HIDDEN}" if parts.query else ""
    return f"{parts.scheme}{user}{parts.rest}{query}"


def without_secrets_in(text: str, url: str) -> str:
    """Return what somebody says about a URL without the secrets of that URL."""
    parts = _parts(url, to_last=True)
    if parts is None:
        return text
    secrets = {url: without_secrets(url)}
    if parts.user:
        user = parts.user.removesuffix("@")
        secrets |= dict.fromkeys((user, *user.split(":", 1), *re.split(r"[:/@?#]", user)), HIDDEN)
    if parts.query:
        secrets[parts.query] = HIDDEN
        secrets |= {value: HIDDEN for _, value in parse_qsl(parts.query)}
        secrets |= {pair.partition("=")[2]: HIDDEN for pair in parts.query.split("&")}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:  # less is no secret, and would hide half of the text
            text = text.replace(secret, secrets[secret])
    return text


def has_user(url: str) -> bool:
    """Return True for a URL with a user or a password in it."""
    parts = _parts(url)
    return bool(parts is not None and parts.user)


def has_query(url: str) -> bool:
    """Return True for a URL with a query, such as a signed one: it names one object, and none beside it."""
    parts = _parts(url)
    return bool(parts is not None and parts.query)


def key_of(url: str) -> str:
    """Return 64 hexadecimal digits for what a URL names, whoever asks and with whatever signature.

    Of a query only what belongs to a signature of S3, Google, CloudFront or Azure is left out, and only where
    that signature is: `se` or `expires` alone may as well name the object.
    """
    parts = _parts(url)
    text = url
    if parts is not None:
        query = parse_qsl(parts.query, keep_blank_values=True)
        names = {name.lower() for name, _ in query}
        signing = [pattern for marks, pattern in _SIGNERS if marks <= names]
        query = [pair for pair in query if not any(found.fullmatch(pair[0].lower()) for found in signing)]
        text = f"{parts.scheme.lower()}{parts.rest.rstrip('/')}?{urlencode(sorted(query))}"
    return hashlib.sha256(text.encode()).hexdigest()


def last_name(url: str) -> str:
    """Return the last name in a URL's path; empty for a bucket or host alone."""
    parts = _parts(url)
    rest = "" if parts is None else parts.rest.rstrip("/")
    if scheme_of(url) not in _NO_HOST:
        rest = rest.partition("/")[2]
    return rest.rpartition("/")[2]


def folder_of(url: str) -> str:
    """Return the URL without the last name in its path, and without its query."""
    parts = _parts(url)
    assert parts is not None  # noqa: S101 - the callers have looked
    return f"{parts.scheme}{parts.user}{parts.rest.rstrip('/').rpartition('/')[0]}"


def inside(folder: str, name: str) -> str:
    """Return the URL of a name in a folder."""
    parts = _parts(folder)
    assert parts is not None  # noqa: S101 - the callers have looked
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}{parts.user}{parts.rest.rstrip('/')}/{name}{query}"
