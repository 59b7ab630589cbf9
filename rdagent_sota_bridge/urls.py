"""The text of a URL: what is one, where it ends in a list, what it names, how it is shown without secrets."""

from __future__ import annotations

import hashlib
import os
import re
from urllib.parse import parse_qsl, urlencode

HIDDEN = "***"
"""What stands in a shown URL in place of a secret."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")  # two letters at least: C:// is a drive
# User and password before a host. An AWS key may hold a slash; a port and a path are no user.
_USER = r"(?:[^/@:\s]+:(?!\d+(?:[/?#:]|$))[^/@:\s][^@:\s]*@|[^/@\s]*@)"
_PORT = r"(?::\d+(?=[/?#:;]|$))"
_PARTS = re.compile(
    rf"(?P<scheme>{_SCHEME.pattern})(?P<user>{_USER})?(?P<rest>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.DOTALL,
)
# Signatures of S3, Google, CloudFront, Azure, and tokens: they change from one URL of an object to the next.
_SIGNING = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|"
    r"se|sp|sv|sr|st|spr|sig|sip|sk(?:oid|tid|t|e|s|v)|(?:.*[_-])?(?:token|secret|password)|(?:api|access)[_-]?key",
    re.IGNORECASE,
)


def is_url(text: str) -> bool:
    """Return True for a text that begins with `scheme://`."""
    return _SCHEME.match(text) is not None


def split_list(text: str, separator: str | None = None) -> list[str]:
    """Split a list of paths and URLs at a separator; None for the platform's.

    That of a URL's scheme, user or port is part of the URL; one in its path is not.
    """
    separator = os.pathsep if separator is None else separator
    whole = rf"{_SCHEME.pattern}{_USER}?[^/{re.escape(separator)}]*{_PORT}?[^{re.escape(separator)}]*"
    entry = re.compile(rf"\s*(?:{whole}|[^{re.escape(separator)}]*)")
    found, at = [], 0
    while True:
        match = entry.match(text, at)
        assert match is not None  # noqa: S101 - it matches the empty text
        found.append(match.group())
        at = match.end()
        if at >= len(text):
            return found
        at += 1
        if at == len(text):
            return [*found, ""]


def scheme_of(url: str) -> str:
    """Return the scheme, in small letters."""
    return url.partition("://")[0].lower()


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown and kept: without user, password, values of its query, and fragment."""
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return url
    user = f"{HIDDEN}@" if parts["user"] else ""
    query = f"?{HIDDEN}" if parts["query"] else ""
    return f"{parts['scheme']}{user}{parts['rest']}{query}"


def without_secrets_in(text: str, url: str) -> str:
    """Return what somebody says about a URL without the secrets of that URL."""
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return text
    secrets = {url: without_secrets(url)}
    if parts["user"]:
        secrets[parts["user"].removesuffix("@")] = HIDDEN
        secrets |= dict.fromkeys(parts["user"].removesuffix("@").split(":", 1), HIDDEN)
    if parts["query"]:
        secrets[parts["query"]] = HIDDEN
        secrets |= {value: HIDDEN for _, value in parse_qsl(parts["query"])}
        secrets |= {pair.partition("=")[2]: HIDDEN for pair in parts["query"].split("&")}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:  # less is no secret, and would hide half of the text
            text = text.replace(secret, secrets[secret])
    return text


def has_user(url: str) -> bool:
    """Return True for a URL with a user or a password in it."""
    parts = _PARTS.fullmatch(url)
    return bool(parts is not None and parts["user"])


def has_query(url: str) -> bool:
    """Return True for a URL with a query, such as a signed one: it names one object, and none beside it."""
    parts = _PARTS.fullmatch(url)
    return bool(parts is not None and parts["query"])


def key_of(url: str) -> str:
    """Return 64 hexadecimal digits for what a URL names, whoever asks and with whatever signature."""
    parts = _PARTS.fullmatch(url)
    text = url
    if parts is not None:
        query = [pair for pair in parse_qsl(parts["query"] or "") if not _SIGNING.fullmatch(pair[0])]
        text = f"{parts['scheme'].lower()}{parts['rest'].rstrip('/')}?{urlencode(sorted(query))}"
    return hashlib.sha256(text.encode()).hexdigest()


def last_name(url: str) -> str:
    """Return the last name in a URL's path; empty for a bucket or host alone."""
    parts = _PARTS.fullmatch(url)
    rest = "" if parts is None else parts["rest"].rstrip("/")
    return rest.rpartition("/")[2]


def folder_of(url: str) -> str:
    """Return the URL without the last name in its path, and without its query."""
    parts = _PARTS.fullmatch(url)
    assert parts is not None  # noqa: S101 - the callers have looked
    return f"{parts['scheme']}{parts['user'] or ''}{parts['rest'].rstrip('/').rpartition('/')[0]}"


def inside(folder: str, name: str) -> str:
    """Return the URL of a name in a folder."""
    parts = _PARTS.fullmatch(folder)
    assert parts is not None  # noqa: S101 - the callers have looked
    query = f"?{parts['query']}" if parts["query"] else ""
    return f"{parts['scheme']}{parts['user'] or ''}{parts['rest'].rstrip('/')}/{name}{query}"
