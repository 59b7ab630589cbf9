"""The files that RD-Agent pickles into its log, loaded with stand-ins through its own check of signatures."""

from __future__ import annotations

import hashlib
import io
import os
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from rdagent_sota_bridge.errors import SessionError, UntrustedSessionError
from rdagent_sota_bridge.factor_set import safe_pickle
from rdagent_sota_bridge.factor_set.names import SESSION_FOLDER

_SIGNED = b"RDAGENT_SIGNED_PICKLE_V"  # rdagent/core/serialization.py, 1.0.0
_PICKLE = b"\x80"  # every pickle of protocol 2 and above begins so
_NAME_KEY = (
    "set ARTIFACT_SIGNING_KEY, or ARTIFACT_SIGNING_KEY_PATH (~/.rdagent/artifact_signing.key if not set), to "
    "the key of that run"
)
_WORKSPACE_ITSELF = "the workspace itself in SOTA_WORKSPACE_PATH"


class _Serializer:
    """The form of `pickle` that `rdagent.core.serialization.load` takes (1.0.0)."""

    def dumps(self, obj: object, protocol: int | None = None) -> bytes:
        """Refuse: sessions are read here, never written."""
        raise NotImplementedError

    def loads(self, data: bytes) -> Any:
        """Unpickle with stand-ins."""
        return safe_pickle.load(io.BytesIO(data))


def load(file: Path) -> Any:
    """Return what a file in a log holds, with stand-ins, through RD-Agent's own loader where it has one.

    Args:
        file: A session (then it is the run's loop), or another pickle that RD-Agent wrote into its log.

    Raises:
        UntrustedSessionError: if RD-Agent's loader refuses the signature.
        SessionError: if it can't be read.
    """
    try:
        with file.open("rb") as content:
            head = content.read(len(_SIGNED))
            if not head.startswith(_PICKLE) and not _SIGNED.startswith(head):
                # Before the look at the signature: of such a file it would advise to trust what is unsigned.
                fix = "name the log folder of a run, such as log/2026-01-31_09-00-00-000000"
                raise SessionError("The file is no session of RD-Agent, nor any pickle", str(file), fix)
            content.seek(0)
            return _verified(file, content, head == _SIGNED)
    except OSError as error:
        raise unreadable(file, error) from None
    except safe_pickle.DAMAGE as error:
        raise SessionError(
            f"The session can't be read: {type(error).__name__}: {_text(error)}",
            str(file),
            f"if the file is cut off, name an earlier session file of that log, or {_WORKSPACE_ITSELF}",
        ) from None


def _verified(file: Path, content: BinaryIO, signed: bool) -> Any:
    serialization = _serialization()
    if serialization is None:
        if signed:
            raise UntrustedSessionError(
                "The session is signed, and the installed RD-Agent can't verify signatures",
                str(file),
                f"use the RD-Agent of that run (1.0.0 or later), or name {_WORKSPACE_ITSELF}",
            )
        return safe_pickle.load(content)
    settings = serialization.RD_AGENT_SETTINGS
    key_file = Path(settings.artifact_signing_key_path).expanduser()
    if signed and not settings.artifact_signing_key and _is_missing(key_file):
        # RD-Agent's loader would make one first, which can't be the right one.
        raise UntrustedSessionError(
            "The session is signed, and there is no signing key to verify it with",
            f"{file}, with the key looked for at {key_file}",
            f"{_NAME_KEY}; or name {_WORKSPACE_ITSELF}",
        )
    try:
        return serialization.load(content, serializer=_Serializer())
    except serialization.UntrustedArtifactError as error:
        if signed:
            fact = f"RD-Agent refuses the session: {error}. It was signed with another key, or changed since"
            fix = f"{_NAME_KEY}; or name {_WORKSPACE_ITSELF}"
        else:
            fact = "RD-Agent refuses the session: it is not signed, as those of RD-Agent 0.8.0 are not"
            fix = (
                f"name {_WORKSPACE_ITSELF}; or, if you trust where the file comes from, set "
                "RD-Agent's own ALLOW_UNSAFE_LEGACY_PICKLE=true"
            )
        raise UntrustedSessionError(fact, str(file), fix) from None


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except OSError:  # in a closed folder: RD-Agent's loader says so
        return False
    return False


def _serialization() -> ModuleType | None:
    """Return RD-Agent's loader of signed pickles, or None for an RD-Agent that signs nothing (0.8.0)."""
    try:
        return import_module("rdagent.core.serialization")
    except ModuleNotFoundError as error:
        if error.name == "rdagent.core.serialization":
            return None
        raise


def unreadable(file: Path, error: OSError) -> SessionError:
    """Return the error of a file that the system does not let this user read."""
    return SessionError(
        f"The session can't be read: {error.strerror or error}",
        str(file),
        "make it, and RD-Agent's signing key, files that you may read (ls -l tells)",
    )


def unknown_form(file: Path, error: Exception) -> SessionError:
    """Return the error of a file that could be unpickled, and is no session."""
    return SessionError(
        f"The file is no session of RD-Agent's, or of a form that is not known: {_text(error)}",
        str(file),
        f"name the log folder of a run, the one that holds {SESSION_FOLDER}",
    )


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def trust() -> list[Any]:
    """Return all that RD-Agent's verdict on a signature depends on, without importing it.

    Its release, and the settings of `core/conf.py` and `core/serialization.py` (1.0.0): the key or its file,
    and whether unsigned sessions are allowed. Names of settings count in any case, as pydantic has it.
    """
    settings = {name.upper(): value for name, value in os.environ.items()}
    named = settings.get("ARTIFACT_SIGNING_KEY_PATH") or "~/.rdagent/artifact_signing.key"
    key_file = Path(named).expanduser()
    try:
        status = key_file.stat()
        # Without the time of a change of the file's own record: RD-Agent sets its mode whenever it reads it.
        identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    except OSError:  # no key yet, or one that may not be read: RD-Agent's loader says so
        identity = []
    return [
        metadata.version("rdagent"),
        hashlib.sha256(settings.get("ARTIFACT_SIGNING_KEY", "").encode()).hexdigest(),
        str(key_file),
        identity,
        settings.get("ALLOW_UNSAFE_LEGACY_PICKLE", ""),
    ]
