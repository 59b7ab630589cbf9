"""One object behind a URL, through fsspec; whatever a driver raises becomes one message without secrets."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import fsspec
from fsspec.callbacks import Callback
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.filesize import decimal

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    LocateError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from rdagent_sota_bridge.factor_set.locate import Origin

WAITS = (1.0, 2.0, 4.0)
"""Seconds before a web server is asked again; the other drivers repeat by themselves."""

SILENCE = 10.0
"""Seconds without a byte after which a line says so, and again each time."""

STALL = 30.0
"""Seconds without a byte after which a web server can't be reached."""

WEB = ("http", "https")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "https", "https": "https"}
"""By scheme: the extra of this package that brings its driver."""

Progress = Callable[[str, int, "int | None"], object]
"""Gets a URL without secrets, how many bytes are there, and of how many."""

MANIFEST = "sota_set.json"
"""The file on shared storage that says what the set beside it is."""

_LARGEST_MANIFEST = 10_000_000  # bytes; a server may give one without end

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_T = TypeVar("_T")
# What distinguishes one content from another, by file system; or times, where there is no such thing.
_TAGS = ("ETag", "etag", "generation", "md5Hash", "crc32c", "Content-MD5", "content_md5", "Digest", "blob_id")
_TIMES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "ino")
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE (FSSPEC_S3_ANON=true for a public bucket), "
    "GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, FSSPEC_HTTPS, or what else the driver reads"
)
# What a driver's exception means: HTTP statuses, types (of Python, aiohttp, botocore, httpx, google.auth and
# huggingface_hub, by their names or those of their bases), fact and fix.
_MEANINGS: tuple[tuple[type[LocateError], tuple[int, ...], str, str, str], ...] = (
    (
        RemoteError,
        (),
        "SSLError",
        "The server's TLS can't be trusted: {reason}",
        "correct the URL (http or https?), or name your server's certificates: SSL_CERT_FILE, AWS_CA_BUNDLE",
    ),
    (
        RemoteRefusedError,
        (401, 403),
        "PermissionError|.*Credentials.*|TokenRetrievalError|.*SSOToken.*|RefreshError|GatedRepoError",
        "The server refuses that it is {doing}: {reason}",
        f"give credentials that may do that: {_CREDENTIALS}",
    ),
    (
        RemoteUnavailableError,
        (429, *range(500, 600)),
        "HTTPClientError|Client(Connection|Payload)Error|ConnectionError|TimeoutError|TransportError|gaierror"
        "|IncompleteRead",
        "The server can't be reached, or fails: {reason}",
        "look at the network and the server, or correct the URL, and start again",
    ),
    (
        FactorFileNotFoundError,
        (404, 410),
        "FileNotFoundError",
        "SOTA factors file not found: {shown}",
        "correct the URL: it names the folder that holds combined_factors_df.parquet, or a file that ends in "
        ".parquet; `rdagent-sota push SET URL` puts a set there (into a bucket that exists)",
    ),
    (
        RemoteError,
        (),
        ".*",
        "It can't be {doing} ({status}): {reason}",
        "correct the URL, or the variable among these that means nothing (FSSPEC_S3_ENDPOINT_URL, say, is "
        "the argument endpoint_url of the driver of s3://), or look at the server",
    ),
)


class SetManifest(BaseModel):
    """What `sota_set.json` says of the set beside it.

    It says `uploading` while the file is being written, or after a push that broke off; a metric that is no
    number is None; and `identity` is what the server said of the file once it was pushed.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    set_manifest_version: Literal[1]
    state: Literal["uploading", "complete"]
    digest: Digest
    size: int
    metrics: dict[str, float | None]
    origin: Origin
    identity: str = ""


@dataclass(frozen=True, eq=False)
class Remote:
    """An object behind a URL, which may be there or not; its methods ask a web server up to four times.

    They raise FactorFileNotFoundError where nothing is, RemoteUnavailableError where the server can't be
    reached or fails, an OSError where this machine's disk is full, and RemoteError for all else.

    Attributes:
        url: The URL, with its signature.
        fs: fsspec's file system.
        path: The object's name there.
        say: Gets a line when a server is silent, or a web server is asked again.
        moved: When the last byte moved, in seconds of the monotonic clock.
    """

    url: str
    fs: Any
    path: str
    say: Callable[[str], object]
    moved: list[float] = field(default_factory=lambda: [0.0])

    @property
    def shown(self) -> str:
        """The URL without its secrets."""
        return urls.without_secrets(self.url)

    def look(self) -> tuple[int | None, str]:
        """Return the object's bytes, None where the server does not say, and its identity, or ''."""

        def ask() -> dict[str, Any]:
            self.fs.invalidate_cache()  # a listing from an earlier look
            info: dict[str, Any] = self.fs.info(self.path)
            if info.get("type") == "directory":
                raise FileNotFoundError("a folder is there")
            return info

        info = self._ask(ask)
        names = [name for name in _TAGS if info.get(name)] or [name for name in _TIMES if info.get(name)]
        texts = [f"{name}={info[name]}" for name in names]
        return info.get("size"), "\n".join([*texts, f"size={info.get('size')}"]) if names else ""

    def get(self, file: Path, progress: Progress) -> None:
        """Write the object's bytes into a file."""
        self._ask(lambda: self.fs.get_file(self.path, str(file), callback=self._callback(progress)))

    def read(self) -> bytes | None:
        """Return the bytes of a manifest; None where nothing is."""

        def check_size(_: str, done: int, __: int | None) -> None:
            if done > _LARGEST_MANIFEST:
                fact = f"The manifest of the set is more than {decimal(_LARGEST_MANIFEST)}"
                raise RemoteError(fact, self.shown, "look at what the server gives for it")

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / MANIFEST
            try:
                self.get(file, check_size)
            except FactorFileNotFoundError:
                return None
            return file.read_bytes()

    def manifest(self) -> SetManifest | None:
        """Return what a manifest says, None where there is none; a RemoteError if that is nothing known."""
        content = self.read()
        try:
            return None if content is None else SetManifest.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RemoteError(
                f"The manifest of the set says nothing that is known ({where}: {first['msg']})",
                self.shown,
                "push it again (`rdagent-sota push SET URL --replace`), or with the release that wrote it",
            ) from None

    def write(self, content: bytes) -> None:
        """Write a small object."""
        self._write(lambda path: self.fs.pipe_file(path, content))

    def put(self, file: Path, progress: Progress) -> None:
        """Write a file's bytes as the object."""
        self._write(lambda path: self.fs.put_file(str(file), path, callback=self._callback(progress)))

    def _callback(self, progress: Progress) -> Callback:
        def move(size: int | None, value: int, **_: object) -> None:
            self.moved[0] = time.monotonic()
            progress(self.shown, value, size)

        return Callback(hooks={"bytes": move})

    def _write(self, write: Callable[[str], object]) -> None:
        def act() -> None:
            # Object stores have no folders, and some drivers would make a bucket of a mistyped one.
            if urls.scheme_of(self.url) not in EXTRAS:
                self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)
            if urls.scheme_of(self.url) in ("file", "local"):
                write(f"{self.path}.tmp")  # a link that lies there is not written through
                self.fs.mv(f"{self.path}.tmp", self.path)
            else:
                write(self.path)

        self._ask(act, "written")

    def _ask(self, act: Callable[[], _T], doing: str = "read") -> _T:
        waits = list(WAITS if urls.scheme_of(self.url) in WEB else ())
        while True:
            try:
                with self._telling_of_silence():
                    return act()
            except Exception as error:
                meant = _meaning(error, self.url, doing)
                if not waits or not isinstance(meant, RemoteUnavailableError):
                    raise meant from None  # what it was raised from has the signature
                wait = waits.pop(0)
                self.say(f"{meant.fact} ({self.shown}): again in {wait:g} s")
                time.sleep(wait)

    @contextlib.contextmanager
    def _telling_of_silence(self) -> Iterator[None]:
        """Say when nothing comes for a while, also before the first byte."""
        is_over, began = threading.Event(), time.monotonic()

        def tell() -> None:
            while not is_over.wait(SILENCE):
                silent = time.monotonic() - max(began, self.moved[0])
                if silent >= SILENCE:
                    self.say(f"{self.shown}: the server has been silent for {silent:.0f} s")

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def reach(url: str, say: Callable[[str], object] = lambda _: None) -> Remote:
    """Return the object behind a URL; nothing is asked of the server yet.

    Credentials and endpoints are fsspec's configuration and the driver's own.

    Args:
        url: The URL.
        say: Gets a line when a web server is asked again.

    Raises:
        RemoteError: if the scheme or its driver is not there, or the URL has a password or another URL in it.
    """
    scheme, shown = urls.scheme_of(url), urls.without_secrets(url)
    if not urls.is_url(url) or urls.is_joined(url):
        raise RemoteError("Chained URLs are not taken", shown, "name the object itself; blanks part two URLs")
    if urls.has_password(url):
        fix = f"take it out, and set {_CREDENTIALS} (FSSPEC_…)"
        raise RemoteError("A URL with a password or a token in it is not taken", shown, fix)
    if scheme not in fsspec.available_protocols():
        fix = (
            "name one such as s3://bucket/run, gs://bucket/run, hf://datasets/name/set/run, https://host/run"
        )
        raise RemoteError(f"fsspec has no driver for {scheme}://", shown, fix)
    fsspec.config.set_conf_env(fsspec.config.conf)  # the .env of a project may be read after fsspec's import
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)  # it logs a traceback of what it raises
    try:
        # Not url_to_fs, which takes an IPv6 address for a chain.
        driver = fsspec.get_filesystem_class(scheme)
        fs = driver(**{**driver._get_kwargs_from_urls(url), **_options(scheme, fsspec.config.conf)})
        return Remote(url, fs, driver._strip_protocol(f"{scheme}://{url.partition('://')[2]}"), say)
    except ImportError:
        extra = EXTRAS.get(scheme)
        fix = f"pip install 'rdagent-sota-bridge[{extra}]'" if extra else "install it beside RD-Agent"
        raise RemoteError(f"The driver for {scheme}:// is not installed", shown, fix) from None
    except Exception as error:
        raise _meaning(error, url, "read") from None


def _options(scheme: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of a driver where the user's configuration says nothing of it."""
    if EXTRAS.get(scheme) == "s3" and "AWS_MAX_ATTEMPTS" not in os.environ:
        # botocore and s3fs both repeat a request, which multiplies: a server that is away would cost minutes.
        given = conf.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"retries": {"max_attempts": 1}, **given}}
    if scheme in WEB:
        from aiohttp import ClientTimeout  # late: an optional dependency

        # aiohttp ends a request after five minutes, although bytes still come.
        given = {"timeout": ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)}
        for name in WEB:
            given.update(conf.get(name, {}).get("client_kwargs", {}))
        return {"client_kwargs": given}
    return {}


def _meaning(error: Exception, url: str, doing: str) -> Exception:
    """Return the one message of what a driver raised; as it is what we raised, and that the disk is full."""
    if isinstance(error, BridgeError) or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
    ):
        return error
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    status = next(filter(None, map(_status, chain)), None)
    names = {kind.__name__ for found in chain for kind in type(found).__mro__}
    if status or "TypeError" in names:
        names.discard("FileNotFoundError")  # fsspec's HTTP makes one of all that fails: its cause says what
    kind, _, types, fact, fix = next(
        row for row in _MEANINGS if status in row[1] or any(re.fullmatch(row[2], name) for name in names)
    )
    # The deepest cause names the trouble, and not the request.
    reason = next((text for found in reversed(chain) if (text := _text(found, url))), type(error).__name__)
    place = shown = urls.without_secrets(url)
    if kind is FactorFileNotFoundError and reason not in shown:
        place = f"{shown} ({reason})"
    if types == ".*":
        variables = sorted(name for name in os.environ if name.startswith(("FSSPEC_", "AWS_")))
        place = f"{shown}; set in the environment or .env: {', '.join(variables) or 'nothing'}"
        for value in (os.environ[name] for name in variables):
            # And values in JSON.
            reason = _hide(reason, [value, *re.findall(r'"((?:[^"\\]|\\.)+)"(?!\s*:)', value)])
    what = f"status {status}" if status else type(error).__name__
    return kind(fact.format(reason=reason, doing=doing, shown=shown, status=what), place, fix)


def _text(error: BaseException, url: str) -> str:
    """Return what an exception says, without a query of this URL or of one that it led to."""
    said = " ".join((getattr(error, "strerror", None) or str(error)).split())
    query = urls.parts(url)[1]
    secrets = [query, *re.findall("=([^&]*)", query), *(value for _, value in parse_qsl(query))]
    return _hide(re.sub(r"(://[^\s?]*)\?[^\s'\")]*", rf"\1?{urls.HIDDEN}", said), secrets)[:300]


def _hide(text: str, secrets: list[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:  # less is no secret, and would hide half of the text
            text = text.replace(secret, urls.HIDDEN)
    return text


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that a driver's exception carries: aiohttp's, gcsfs's, botocore's, requests'."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(response or error, "status_code", None)
        found = found or getattr(error, "code", None)
    return int(found) if str(found).isdigit() else None
