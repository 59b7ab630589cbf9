"""The text of a URL: what is one, where it ends in a list, and how it is shown without its secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

HIDDEN = "***"
"""What stands in a shown URL in place of a secret."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")  # two letters at least: C:// is a drive
UNQUOTE = "take the quotes off, which are part of the value here"
"""The fix of a value in quotes; without the value, which may hold a secret."""

_QUOTES = "\"'`“”‘’"
_DRIVE = re.compile(r"(?:@/?)?[A-Za-z]")  # D of D:\sets; editors copy it as @/d:/sets
_DRIVE_PATH = re.compile(r"(?:@/?|/)?([A-Za-z]):[\\/]+(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\w|\$\{|%\w+%")
_NO_HOST = ("file", "local", "memory")  # all of such a URL is a path
_TOKEN_SCHEMES = ("http", "https", "s3", "s3a", "gs", "gcs", "hf")  # a name before @ is a secret there, too
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?")  # an IPv6 address has brackets


def is_url(text: str) -> bool:
    """Return True for a text that begins with `scheme://`."""
    return _SCHEME.match(text) is not None


def scheme_of(url: str) -> str:
    """Return the scheme, in small letters."""
    return url.partition("://")[0].lower()


def split_list(text: str) -> list[str]:
    """Split a list: blanks stand around a URL, and the platform's separator between paths."""
    entries = []
    pieces = re.split(rf"(?<!\S)({_SCHEME.pattern}\S*)", text)
    for piece in pieces:
        if is_url(piece) or "://" in piece:
            entries.append(piece.strip())
        elif piece.strip() or len(pieces) == 1:
            entries += _paths(piece)
    return entries


def _paths(text: str) -> list[str]:
    paths: list[str] = []
    for part in text.split(os.pathsep):
        is_drive = paths and _DRIVE.fullmatch(paths[-1]) and not Path(paths[-1]).exists()
        if is_drive and part.startswith(("/", "\\")):
            paths[-1] += f":{part.rstrip()}"
        else:
            paths.append(part.strip())
    return paths


def misread(text: str) -> str:
    """Return the fix for the text of a path that is written for another program; empty for any other text."""
    if drive := _DRIVE_PATH.fullmatch(text):
        rest = drive[2].replace("\\", "/")
        return f"write a Windows path as Linux has it; in WSL it is /mnt/{drive[1].lower()}/{rest}"
    if text.strip(_QUOTES) != text:
        return UNQUOTE
    if _VARIABLE.search(text):
        return "write the path out: no variable is put in here (a .env does so for ${NAME})"
    if "\\" in text:
        return "write a Windows path as Linux has it, with / in place of \\"
    return "take the @ off" if text.startswith("@") else ""


def is_joined(entry: str) -> bool:
    """Return True for an entry of a list in which a URL has no blank between it and its neighbour."""
    scheme = _SCHEME.match(entry)
    rest = entry[scheme.end() :].partition("?")[0] if scheme else entry
    return "://" in rest or bool(scheme and re.search(rf"{os.pathsep}(?:[/~.]|$)", rest))


def parts(url: str) -> tuple[str, str]:
    """Return a URL without its query, and the query without its `?`.

    Of web addresses the fragment goes; elsewhere `#` is a letter of the path.
    """
    whole = url.partition("#")[0] if scheme_of(url) in ("http", "https") else url
    address, _, query = whole.partition("?")
    return address, query


def has_password(url: str) -> bool:
    """Return True for a URL with a password or a token before its host."""
    host = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if scheme_of(url) in _NO_HOST or host.startswith("arn:"):
        return False
    user, _, host = host.rpartition("@")
    # A colon that begins no port: of a password that holds a slash or the like.
    is_secret = ":" in user or (user and scheme_of(url) in _TOKEN_SCHEMES)
    return bool(is_secret) or _HOST.fullmatch(host) is None


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown and kept: without password, values of its query, and fragment."""
    if not is_url(url):
        return url
    if has_password(url):
        return f"{url.partition('://')[0]}://{HIDDEN}"
    address, query = parts(url)
    return f"{address}?{HIDDEN}" if query else address
