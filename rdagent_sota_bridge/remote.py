"""One object behind a URL, through fsspec: what it is, its bytes from any place on, and writing it.

Imported only where a URL is named. What a driver raises becomes one message, without the secrets of the URL.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)

BLOCK = 1 << 23
"""Bytes of one request: what a broken connection costs at most."""

STALL = 30.0
"""Seconds without a byte after which a web server is taken as away."""

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

_READ_ONLY = ("http", "https")
_PUSH_AGAIN = "push the set again (`rdagent-sota push SET URL --replace`)"
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile of ~/.aws; FSSPEC_S3_ANON=true for a "
    "public bucket; FSSPEC_S3_ENDPOINT_URL for a server that is not Amazon's",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
    "hf": "HF_TOKEN, or hf auth login",
    "https": 'FSSPEC_HTTPS=\'{"client_kwargs": {"headers": {…}}}\', or a URL that is signed',
}
# What tells one content from another, by file system; then times, where there is no such thing.
_CONTENT = (
    "ETag", "etag", "generation", "md5Hash", "crc32c", "Content-MD5", "content_md5", "Digest", "blob_id",
)  # fmt: skip
_TIMES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "ino")
_LIBRARIES = (
    "aiohttp", "aiobotocore", "botocore", "s3fs", "fsspec", "gcsfs", "google", "huggingface_hub", "httpx",
    "requests", "urllib3",
)  # fmt: skip
_CONFIGURATION = ("FSSPEC_", "AWS_")
_BROKEN = {
    "ClientConnectorError", "ClientPayloadError", "ServerDisconnectedError", "ConnectTimeoutError",
    "ReadError", "ReadTimeoutError", "EndpointConnectionError", "ConnectionClosedError", "IncompleteRead",
    "HTTPClientError", "FSTimeoutError", "ConnectError", "RemoteProtocolError", "OfflineModeIsEnabled",
}  # fmt: skip
_DENIED = {
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "UnauthorizedSSOTokenError",
    "SSOTokenLoadError", "DefaultCredentialsError", "RefreshError", "GatedRepoError",
}  # fmt: skip

_UNUSABLE = {
    "ProfileNotFound", "ConfigNotFound", "ConfigParseError", "NoRegionError", "InvalidRegionError",
    "InvalidConfigError",
}  # fmt: skip


class RemoteChangedError(Exception):
    """The object is not the one that was looked at before."""


class NoRangesError(Exception):
    """The server gives its objects whole or not at all."""


@dataclass(frozen=True)
class Seen:
    """What a file system tells of an object.

    Attributes:
        size: Bytes; None where the server does not say.
        identity: What tells its content from another: ETag, checksum or times; empty where there is none.
        ranges: True if the object can be read from any place on, as far as the server says.
    """

    size: int | None
    identity: str
    ranges: bool = True


@dataclass(frozen=True, eq=False)
class Remote:
    """An object behind a URL, which may be there or not.

    Attributes:
        url: The URL, with its secrets.
    """

    url: str
    _fs: Any
    _path: str

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
            self._fs.invalidate_cache()  # a listing from an earlier look
            info = self._fs.info(self._path)
        if info.get("type") == "directory":
            raise _not_found(self.url, "a folder is there")
        return _seen(info)

    def blocks(self, seen: Seen, start: int) -> Iterator[bytes]:
        """Yield the bytes from a place on, a block a request.

        Args:
            seen: What `look` told.
            start: Where to begin; 0 where there are no ranges.

        Raises:
            RemoteChangedError: if the object is another one by now, as far as the server tells.
            NoRangesError: if the server has no ranges, though `seen` says so.
            RemoteUnavailableError, RemoteError, FactorFileNotFoundError: as `look`.
        """
        with _translated(self.url):
            kwargs: dict[str, Any] = {"block_size": BLOCK, "cache_type": "none"} if seen.ranges else {}
            if urls.scheme_of(self.url) in _READ_ONLY:
                kwargs = self._http(seen, kwargs)
            file = self._fs.open(self._path, "rb", **kwargs)
        with file:
            details = getattr(file, "details", None)
            if isinstance(details, dict) and (found := _seen(details)).identity not in ("", seen.identity):
                raise RemoteChangedError(found.identity)
            with _translated(self.url):
                if start:
                    file.seek(start)
            while True:
                with _translated(self.url):
                    block = _read_block(file)
                if not block:
                    return
                yield block

    def _http(self, seen: Seen, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments for fsspec's HTTP file system, which does not compare ETags by itself."""
        tag = seen.identity.partition("ETag=")[2].partition("\n")[0]
        given = self._fs.kwargs.get("headers", {})
        headers = {"headers": {**given, "If-Match": tag}} if tag and not tag.startswith("W/") else {}
        return {**kwargs, **headers} if seen.ranges else {"block_size": 0, **headers}

    def read_small(self, limit: int = 1 << 24) -> bytes | None:
        """Return the bytes of a small object; None where nothing is.

        Raises:
            RemoteUnavailableError, RemoteError: as `look`; and if it has more than `limit` bytes.
        """
        try:
            seen = self.look()
        except FactorFileNotFoundError:
            return None
        too_large = RemoteError(
            f"A file of more than {limit:,} bytes is no manifest", self.shown, _PUSH_AGAIN
        )
        if seen.size is not None:
            if seen.size > limit:
                raise too_large
            with _translated(self.url):
                return bytes(self._fs.cat_file(self._path))
        content = b""
        try:
            for block in self.blocks(seen, 0):
                content += block
                if len(content) > limit:
                    raise too_large
        except RemoteChangedError:
            raise RemoteError("The manifest is written just now", self.shown, "start again") from None
        return content

    def write_small(self, content: bytes) -> None:
        """Write a small object.

        Raises:
            RemoteUnavailableError, RemoteError: if it can't be written.
        """
        with _translated(self.url, "written"):
            self._make_folder()
            if self._is_local():
                # A link that lies there is not written through.
                self._fs.pipe_file(f"{self._path}.tmp", content)
                self._fs.mv(f"{self._path}.tmp", self._path)
            else:
                self._fs.pipe_file(self._path, content)

    def put(self, file: Path, progress: Callable[[int, int | None], object]) -> None:
        """Write a file's bytes as the object; in parts where the driver has parts.

        Args:
            file: The file.
            progress: Is told how many bytes are there, of how many.

        Raises:
            RemoteUnavailableError, RemoteError: if it can't be written.
        """
        from fsspec.callbacks import Callback

        class Told(Callback):  # type: ignore[misc] # fsspec ships no types
            def call(self, *_: Any, **__: Any) -> None:
                progress(self.value, self.size)

        with _translated(self.url, "written"):
            self._make_folder()
            target = f"{self._path}.tmp" if self._is_local() else self._path
            self._fs.put_file(str(file), target, callback=Told())
            if target != self._path:
                self._fs.mv(target, self._path)
            self._fs.invalidate_cache()

    def _is_local(self) -> bool:
        return urls.scheme_of(self.url) in ("file", "local")

    def _make_folder(self) -> None:
        # Object stores have no folders, and some drivers would make a bucket of a mistyped one.
        if urls.scheme_of(self.url) not in EXTRAS:
            self._fs.makedirs(self._path.rpartition("/")[0], exist_ok=True)


def _read_block(file: Any) -> bytes:
    """Return a block, or what is left: a stream gives what has come so far."""
    parts, missing = [], BLOCK
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def reach(url: str) -> Remote:
    """Return the object behind a URL; nothing is asked of the server yet.

    Credentials and endpoints are fsspec's configuration and the driver's own.

    Raises:
        RemoteError: if the scheme or its driver is not there, or the URL carries credentials where it can't.
    """
    import fsspec

    scheme = urls.scheme_of(url)
    extra, module = EXTRAS.get(scheme, ("", ""))
    if urls.is_chained(url):
        raise RemoteError("Chained URLs are not taken", urls.without_secrets(url), "name the object itself")
    if module and importlib.util.find_spec(module) is None:
        raise _no_driver(url, extra)
    if urls.has_user(url) and extra in _CREDENTIALS and scheme not in _READ_ONLY:
        raise RemoteError(
            f"A URL of {scheme}:// can't carry credentials",
            urls.without_secrets(url),
            f"take them out of it, and set {_CREDENTIALS[extra]}",
        )
    # The .env of a project may have come after fsspec was imported.
    fsspec.config.set_conf_env(fsspec.config.conf)
    with _translated(url):
        try:
            # Not url_to_fs, which takes an IPv6 address for a chain.
            driver = fsspec.get_filesystem_class(scheme)
            told = driver._get_kwargs_from_urls(url)
            fs = driver(**{**told, **_options(extra, fsspec.config.conf)})
            path = driver._strip_protocol(f"{scheme}://{url.partition('://')[2]}")
        except ImportError:
            raise _no_driver(url, extra) from None
        except ValueError as error:
            if scheme in fsspec.available_protocols():
                raise
            raise RemoteError(
                f"The URL means nothing to fsspec: {urls.without_secrets_in(str(error), url)}",
                urls.without_secrets(url),
                "name one such as s3://bucket/run, gs://bucket/run, hf://datasets/name/set/run or "
                "https://host/run",
            ) from None
    return Remote(url, fs, path)


def is_read_only(url: str) -> bool:
    """Return True for schemes that nothing can be written to."""
    return urls.scheme_of(url) in _READ_ONLY


def _options(extra: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of a driver where the user's configuration says nothing of it.

    botocore and s3fs both repeat a request, which multiplies: a server that is away would cost minutes.
    aiohttp ends a request after five minutes, however well it goes on.
    """
    if extra == "s3" and "AWS_MAX_ATTEMPTS" not in os.environ:
        given = conf.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"retries": {"max_attempts": 1}, **given}}
    if extra == "https":
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
        given = {name: value for one in _READ_ONLY for name, value in _client(conf, one).items()}
        return {"client_kwargs": {"timeout": timeout, **given}}
    return {}


def _client(conf: dict[str, Any], protocol: str) -> dict[str, Any]:
    found: dict[str, Any] = conf.get(protocol, {}).get("client_kwargs", {})
    return found


def _seen(info: dict[str, Any]) -> Seen:
    kinds = (_CONTENT, _TIMES, ("created",))
    names = next((found for kind in kinds if (found := [name for name in kind if info.get(name)])), [])
    identity = "\n".join(f"{name}={info[name]}" for name in names)
    size = info.get("size")
    whole = size is not None and info.get("partial", True)
    return Seen(size, f"{identity}\nsize={size}" if identity else "", bool(whole))


# --- what drivers raise ---


@contextlib.contextmanager
def _translated(url: str, doing: str = "read") -> Iterator[None]:
    """Make one message of what a driver raises; what is no driver's goes on as it is."""
    # It logs what it raises, with a traceback.
    noisy = logging.getLogger("gcsfs")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except (BridgeError, RemoteChangedError):
        raise
    except Exception as error:
        told = None if _is_ours(error) else _told(error, url, doing)
        if told is None:
            raise
        raise told from None
    finally:
        noisy.setLevel(level)


def _is_ours(error: Exception) -> bool:
    """Return True for what another module of this package raised, called by a driver: our own fault."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename)
    return file.is_relative_to(Path(__file__).parent) and file != Path(__file__)


def _told(error: Exception, url: str, doing: str) -> Exception | None:
    chain = _chain(error)
    names = {kind.__name__ for found in chain for kind in type(found).__mro__}
    status = next((found for found in map(_status, chain) if found is not None), None)
    said = urls.without_secrets_in(" ".join(str(error).split()), url)[:300]
    shown, extra = urls.without_secrets(url), EXTRAS.get(urls.scheme_of(url), ("", ""))[0]
    if isinstance(error, ValueError) and "range requests" in str(error):
        return NoRangesError()
    if any(isinstance(found, ssl.SSLError) for found in chain) or "SSLError" in names:
        return RemoteError(
            f"The server's TLS can't be trusted: {_innermost(chain, url)}",
            shown,
            "correct the URL (http or https?), or name the certificates of your own server: SSL_CERT_FILE, "
            "for S3 AWS_CA_BUNDLE",
        )
    if any(isinstance(found, socket.gaierror) for found in chain):
        return RemoteUnavailableError(
            "The server's name is not known",
            f"{shown}, {_innermost(chain[:-1], url)}",
            "correct the URL, or look at the network",
        )
    if "FileExpired" in names or status in (412, 416):
        return RemoteChangedError(said)
    if status in (401, 403) or "PermissionError" in names or names & _DENIED:
        return RemoteRefusedError(
            f"The server refuses that it is {doing}: {said or status}",
            shown,
            f"give credentials that may do that: {_CREDENTIALS.get(extra, 'see the driver of fsspec')}",
        )
    if (status is not None and (status >= 500 or status == 429)) or names & (_BROKEN | {"TimeoutError"}):
        return RemoteUnavailableError(
            f"The server can't be reached, or fails: {_innermost(chain, url)}",
            shown,
            "look at the network and the server, and start again: what was fetched is kept",
        )
    if any(isinstance(found, ConnectionError) for found in chain):
        return RemoteUnavailableError(
            f"The connection broke: {_innermost(chain, url)}",
            shown,
            "look at the network and the server, and start again: what was fetched is kept",
        )
    # What a driver makes of an argument that it does not know, or of one that means nothing.
    if names & _UNUSABLE or any(isinstance(found, TypeError) for found in chain):
        return _unusable(url, chain)
    # fsspec's HTTP makes a FileNotFoundError of whatever went wrong.
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        return _not_found(url, said)
    if isinstance(error, (OSError, NotImplementedError)) or type(error).__module__.startswith(_LIBRARIES):
        return RemoteError(
            f"It can't be {doing}: {f'status {status}' if status else said or type(error).__name__}",
            shown,
            "correct the URL, or look at the server",
        )
    if isinstance(error, (ValueError, AttributeError, KeyError)):
        return _unusable(url, chain)
    return None


def _unusable(url: str, chain: list[BaseException]) -> RemoteError:
    """Return the error of a driver that can't work with what it is given: by the URL or the environment."""
    variables = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_CONFIGURATION)}
    said = _innermost(chain, url)
    for secret in sorted((text for value in variables.values() for text in _texts(value)), key=len)[::-1]:
        said = said.replace(secret, urls.HIDDEN) if len(secret) > 3 else said
    return RemoteError(
        f"The driver of {urls.scheme_of(url)}:// can't work with the URL or its settings: {said}",
        f"{urls.without_secrets(url)}; set in the environment or .env: {', '.join(variables) or 'nothing'}",
        "correct the URL, or the variable among these that means nothing (FSSPEC_S3_ENDPOINT_URL, say, is "
        "the argument endpoint_url of the driver of s3://)",
    )


def _texts(value: str) -> list[str]:
    """Return the text of a variable, or the texts in it where it is JSON: what may be secret."""
    try:
        told = json.loads(value)
    except ValueError:
        return [value]
    found, left = [], [told]
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
        found = next(
            (
                value
                for at, name in ((error, "status"), (response, "status_code"), (error, "code"))
                if (value := getattr(at, name, None)) is not None
            ),
            None,
        )
    return int(found) if isinstance(found, int) or str(found).isdigit() else None


def _innermost(chain: list[BaseException], url: str) -> str:
    """Return the words of the deepest cause, which names the trouble and not the request."""
    for found in reversed(chain):
        text = found.strerror if isinstance(found, OSError) and found.strerror else str(found)
        if text:
            return urls.without_secrets_in(" ".join(text.split()), url)[:300]
    return type(chain[0]).__name__


def _not_found(url: str, said: str) -> FactorFileNotFoundError:
    shown = urls.without_secrets(url)
    if "bucket does not exist" in said.lower():  # S3's NoSuchBucket
        return FactorFileNotFoundError(
            f"SOTA factors file not found: {shown}, for there is no such bucket",
            f"{shown} ({said})",
            "correct the bucket's name, or create it: a push creates none",
        )
    return FactorFileNotFoundError(
        f"SOTA factors file not found: {shown}",
        f"{shown} ({said})" if said and said not in shown else shown,
        "correct the URL: it names the folder that holds combined_factors_df.parquet, or a file that ends in "
        ".parquet; `rdagent-sota push SET URL` puts a set there",
    )


def _no_driver(url: str, extra: str) -> RemoteError:
    scheme = urls.scheme_of(url)
    fix = (
        f"pip install 'rdagent-sota-bridge[{extra}]'"
        if extra
        else f"install fsspec's driver for {scheme}:// beside RD-Agent"
    )
    return RemoteError(f"The driver for {scheme}:// is not installed", urls.without_secrets(url), fix)
