"""One object behind a URL, through fsspec; what a driver raises becomes one message without secrets."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import fsspec
from fsspec.callbacks import Callback

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)

WAITS = (1.0, 2.0, 4.0)
"""Seconds before a web server is asked again; the other drivers repeat by themselves."""

STALL = 30.0
"""Seconds without a byte after which a web server can't be reached."""

EXTRAS = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gs", "gcsfs"),
    "gcs": ("gs", "gcsfs"),
    "hf": ("hf", "huggingface_hub"),
    "http": ("https", "aiohttp"),
    "https": ("https", "aiohttp"),
}
"""By scheme: the extra of this package that brings its driver, and the driver's module."""

WEB = ("http", "https")
"""The schemes that nothing can be written to."""

SMALL = 1 << 24
"""The most bytes that a manifest may have."""

Progress = Callable[[str, int, "int | None"], object]
"""Gets a URL without secrets, how many bytes are there, and of how many."""

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile of ~/.aws; FSSPEC_S3_ANON=true for a "
    "public bucket; FSSPEC_S3_ENDPOINT_URL for a server that is not Amazon's",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
    "hf": "HF_TOKEN, or hf auth login",
    "https": 'FSSPEC_HTTPS=\'{"client_kwargs": {"headers": {…}}}\', or a URL that is signed',
}
# What tells one content from another, by file system; then times, where there is no such thing.
_IDENTITIES = (
    ("ETag", "etag", "generation", "md5Hash", "crc32c", "Content-MD5", "content_md5", "Digest", "blob_id"),
    ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "ino"),
    ("created",),
)
# Names of exceptions, of aiohttp, botocore, httpx, google.auth and huggingface_hub, and of their bases.
_AWAY = {
    "ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError",
    "TransportError", "IncompleteRead",
}  # fmt: skip
_DENIED = {
    "PermissionError", "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError",
    "UnauthorizedSSOTokenError", "SSOTokenLoadError", "DefaultCredentialsError", "RefreshError",
    "GatedRepoError",
}  # fmt: skip
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the file that is written here


@dataclass(frozen=True)
class Seen:
    """What a file system says of an object.

    Attributes:
        size: Bytes; None where the server does not say.
        identity: What tells its content from another: ETag, checksum or times; empty where there is none.
    """

    size: int | None
    identity: str


@dataclass(frozen=True, eq=False)
class Remote:
    """An object behind a URL, which may be there or not.

    Attributes:
        url: The URL, with its signature.
        fs: fsspec's file system.
        path: The object's name there.
    """

    url: str
    fs: Any
    path: str

    @property
    def shown(self) -> str:
        """The URL without its secrets."""
        return urls.without_secrets(self.url)

    def look(self) -> Seen:
        """Ask what is there.

        Raises:
            FactorFileNotFoundError: if nothing is.
            RemoteUnavailableError: if the server can't be reached, or fails.
            RemoteError: if it refuses.
        """
        with _translated(self.url):
            self.fs.invalidate_cache()  # a listing from an earlier look
            info = self.fs.info(self.path)
        if info.get("type") == "directory":
            raise _not_found(self.url, "a folder is there")
        names = next(
            (found for kind in _IDENTITIES if (found := [name for name in kind if info.get(name)])), []
        )
        size = info.get("size")
        identity = "\n".join([*(f"{name}={info[name]}" for name in names), f"size={size}"])
        return Seen(size, identity if names else "")

    def get(self, file: Path, progress: Progress) -> None:
        """Write the object's bytes into a file.

        Raises:
            OSError: if the disk is full.
            FactorFileNotFoundError, RemoteUnavailableError, RemoteError: as `look`.
        """
        with _translated(self.url):
            self.fs.get_file(self.path, str(file), callback=_callback(self.shown, progress))

    def read(self) -> bytes | None:
        """Return the bytes of a manifest; None where nothing is.

        Raises:
            RemoteUnavailableError, RemoteError: as `look`; and if it has more than `SMALL` bytes.
        """
        # A web server that tells no length is read as a stream.
        kwargs = {"block_size": 0} if urls.scheme_of(self.url) in WEB else {}
        content = b""
        try:
            with _translated(self.url), self.fs.open(self.path, "rb", **kwargs) as file:
                while len(content) <= SMALL and (block := file.read(SMALL)):
                    content += block
        except FactorFileNotFoundError:
            return None
        if len(content) > SMALL:
            raise RemoteError(f"A file of more than {SMALL:,} bytes is no manifest", self.shown, "remove it")
        return content

    def write(self, content: bytes) -> None:
        """Write a small object.

        Raises:
            RemoteUnavailableError, RemoteError: if it can't be written.
        """
        self._write(lambda path: self.fs.pipe_file(path, content))

    def put(self, file: Path, progress: Progress) -> None:
        """Write a file's bytes as the object.

        Raises:
            RemoteUnavailableError, RemoteError: if it can't be written.
        """
        callback = _callback(self.shown, progress)
        self._write(lambda path: self.fs.put_file(str(file), path, callback=callback))

    def _write(self, write: Callable[[str], object]) -> None:
        # A link that lies in a folder of this machine is not written through.
        target = f"{self.path}.tmp" if urls.scheme_of(self.url) in ("file", "local") else self.path
        with _translated(self.url, "written"):
            # Object stores have no folders, and some drivers would make a bucket of a mistyped one.
            if urls.scheme_of(self.url) not in EXTRAS:
                self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)
            write(target)
            if target != self.path:
                self.fs.mv(target, self.path)
            self.fs.invalidate_cache()


def _callback(shown: str, progress: Progress) -> Callback:
    return Callback(hooks={"bytes": lambda size, value, **_: progress(shown, value, size)})


def tried(act: Callable[[], Seen], thing: Remote, tell: Callable[[str], object]) -> Seen:
    """Return what `act` returns; tried four times on a web server, for fsspec's HTTP repeats nothing.

    Raises:
        RemoteUnavailableError: as `act` raises it, at the last time.
    """
    for wait in WAITS if urls.scheme_of(thing.url) in WEB else ():
        try:
            return act()
        except RemoteUnavailableError as error:
            tell(f"{error.fact} ({thing.shown}): again in {wait:g} s")
            time.sleep(wait)
    return act()


def reach(url: str) -> Remote:
    """Return the object behind a URL; nothing is asked of the server yet.

    Credentials and endpoints are fsspec's configuration and the driver's own.

    Raises:
        RemoteError: if the scheme or its driver is not there, or the URL has a password or another URL in it.
    """
    scheme, shown = urls.scheme_of(url), urls.without_secrets(url)
    extra, module = EXTRAS.get(scheme, ("", ""))
    if not urls.is_url(url) or urls.is_joined(url):
        raise RemoteError("Chained URLs are not taken", shown, "name the object itself; blanks part two URLs")
    if urls.has_password(url):
        raise RemoteError(
            "A URL with a password or a token in it is not taken",
            shown,
            f"take it out, and set {_CREDENTIALS.get(extra, 'the configuration of the driver (FSSPEC_…)')}",
        )
    if module and importlib.util.find_spec(module) is None:
        raise _no_driver(scheme, shown, extra)
    # The .env of a project may have come after fsspec was imported.
    fsspec.config.set_conf_env(fsspec.config.conf)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)  # it logs a traceback of what it raises
    if scheme not in fsspec.available_protocols():
        fix = (
            "name one such as s3://bucket/run, gs://bucket/run, hf://datasets/name/set/run, https://host/run"
        )
        raise RemoteError(f"fsspec has no driver for {scheme}://", shown, fix)
    with _translated(url):
        try:
            # Not url_to_fs, which takes an IPv6 address for a chain.
            driver = fsspec.get_filesystem_class(scheme)
            fs = driver(**{**driver._get_kwargs_from_urls(url), **_options(extra, fsspec.config.conf)})
            path = driver._strip_protocol(f"{scheme}://{url.partition('://')[2]}")
        except ImportError:
            raise _no_driver(scheme, shown, extra) from None
    return Remote(url, fs, path)


def _options(extra: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of a driver where the user's configuration says nothing of it.

    botocore and s3fs both repeat a request, which multiplies: a server that is away would cost minutes.
    aiohttp ends a request after five minutes, however well it goes on.
    """
    if extra == "s3" and "AWS_MAX_ATTEMPTS" not in os.environ:
        given = conf.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"retries": {"max_attempts": 1}, **given}}
    if extra == "https":
        from aiohttp import ClientTimeout  # late: an optional dependency

        given = {}
        for scheme in WEB:
            given.update(conf.get(scheme, {}).get("client_kwargs", {}))
        timeout = ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
        return {"client_kwargs": {"timeout": timeout, **given}}
    return {}


# --- what drivers raise ---


@contextlib.contextmanager
def _translated(url: str, doing: str = "read") -> Iterator[None]:
    """Make one message of whatever a driver raises; not of a full disk of this machine."""
    try:
        yield
    except BridgeError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _DISK:
            raise
        raise _translation(error, url, doing) from None  # what it was raised from has the signature


def _translation(error: Exception, url: str, doing: str) -> BridgeError:
    chain = _chain(error)
    names = {kind.__name__ for found in chain for kind in type(found).__mro__}
    status = next((found for found in map(_status, chain) if found is not None), None)
    shown, extra = urls.without_secrets(url), EXTRAS.get(urls.scheme_of(url), ("", ""))[0]
    # The deepest cause names the trouble, and not the request.
    reason = next((text for found in reversed(chain) if (text := _text(found, url))), type(error).__name__)
    if "SSLError" in names or any(isinstance(found, ssl.SSLError) for found in chain):
        return RemoteError(
            f"The server's TLS can't be trusted: {reason}",
            shown,
            "correct the URL (http or https?), or name the certificates of your own server: SSL_CERT_FILE, "
            "for S3 AWS_CA_BUNDLE",
        )
    if status in (401, 403) or names & _DENIED:
        return RemoteRefusedError(
            f"The server refuses that it is {doing}: {_text(error, url) or status}",
            shown,
            f"give credentials that may do that: {_CREDENTIALS.get(extra, 'see the driver of fsspec')}",
        )
    # fsspec's HTTP makes a FileNotFoundError of a server that is away, too: its cause says which.
    if (status is not None and (status >= 500 or status == 429)) or names & _AWAY or "gaierror" in names:
        unknown = any(isinstance(found, socket.gaierror) for found in chain)
        return RemoteUnavailableError(
            f"The server can't be reached, or fails: {'its name is not known' if unknown else reason}",
            shown,
            "look at the network and the server, or correct the URL, and start again",
        )
    is_missing = isinstance(error, FileNotFoundError) and "TypeError" not in names
    if status in (404, 410) or (status is None and is_missing):
        return _not_found(url, _text(error, url))
    variables = {
        name: os.environ[name] for name in sorted(os.environ) if name.startswith(("FSSPEC_", "AWS_"))
    }
    for secret in sorted((text for value in variables.values() for text in _texts(value)), key=len)[::-1]:
        reason = reason.replace(secret, urls.HIDDEN) if len(secret) > 3 else reason
    return RemoteError(
        f"It can't be {doing} ({f'status {status}' if status else type(error).__name__}): {reason}",
        f"{shown}; set in the environment or .env: {', '.join(variables) or 'nothing'}",
        "correct the URL, or the variable among these that means nothing (FSSPEC_S3_ENDPOINT_URL, say, is "
        "the argument endpoint_url of the driver of s3://), or look at the server",
    )


def _text(error: BaseException, url: str) -> str:
    """Return what an exception says, without a query of this URL or of one that it led to."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = re.sub(r"(://[^\s?]*)\?[^\s'\")]*", rf"\1?{urls.HIDDEN}", " ".join(said.split()))
    query = urls.parts(url)[1]
    pairs = [pair.partition("=")[2] for pair in query.split("&")]
    for secret in sorted({query, *pairs, *(value for _, value in parse_qsl(query))}, key=len, reverse=True):
        if len(secret) > 3:  # less is no secret, and would hide half of the text
            text = text.replace(secret, urls.HIDDEN)
    return text[:300]


def _texts(value: str) -> list[str]:
    """Return the text of a variable, or the texts in it where it is JSON: what may be secret."""
    try:
        left = [json.loads(value)]
    except ValueError:
        return [value]
    found = []
    while left:
        one = left.pop()
        if isinstance(one, (dict, list)):
            left += one.values() if isinstance(one, dict) else one
        else:
            found.append(str(one))
    return found


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that a driver's exception carries: aiohttp's, gcsfs's, botocore's, requests'."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        places = ((error, "status"), (response, "status_code"), (error, "code"))
        found = next((value for at, name in places if (value := getattr(at, name, None)) is not None), None)
    return int(found) if isinstance(found, int) or str(found).isdigit() else None


def _not_found(url: str, said: str) -> FactorFileNotFoundError:
    shown = urls.without_secrets(url)
    return FactorFileNotFoundError(
        f"SOTA factors file not found: {shown}",
        f"{shown} ({said})" if said and said not in shown else shown,
        "correct the URL: it names the folder that holds combined_factors_df.parquet, or a file that ends in "
        ".parquet; `rdagent-sota push SET URL` puts a set there (into a bucket that exists)",
    )


def _no_driver(scheme: str, shown: str, extra: str) -> RemoteError:
    fix = f"pip install 'rdagent-sota-bridge[{extra}]'" if extra else "install it beside RD-Agent"
    return RemoteError(f"The driver for {scheme}:// is not installed", shown, fix)
