"""The manifest of a set on shared storage: what the set is, beside its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rdagent_sota_bridge.errors import RemoteError
from rdagent_sota_bridge.locate import Origin
from rdagent_sota_bridge.remote import Remote

FILE = "sota_set.json"

_VERSION = 1
UPLOADING, COMPLETE = "uploading", "complete"


@dataclass(frozen=True)
class Published:
    """What a manifest says of the set beside it.

    Attributes:
        complete: False while the file is being written, or after a push that broke off.
        digest: `sha256:` and the digest of the file's bytes.
        size: Bytes of the file.
        metrics: The factor run's own.
        origin: The run and the loop that left the set.
        identity: What the server told of the file once it was written (`remote.Seen`), by which one that was
            written over afterwards is told; empty where it tells nothing.
    """

    complete: bool
    digest: str
    size: int
    metrics: dict[str, float]
    origin: Origin
    identity: str


def text(content: dict[str, Any], state: str) -> bytes:
    """Return a manifest as it is written.

    Args:
        content: What it says of the set; `digest` and `size` among it.
        state: `UPLOADING` before the file is written, `COMPLETE` after.
    """
    whole = {"set_manifest_version": _VERSION, "state": state, **content}
    return (json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def read(remote: Remote) -> Published | None:
    """Return what a manifest says; None where there is none.

    Raises:
        RemoteError: if it can't be read, or says nothing that is known.
    """
    found = remote.read_small()
    return None if found is None else parsed(found, remote.shown)


def parsed(content: bytes, place: str) -> Published:
    """Return what a manifest's text says.

    Raises:
        RemoteError: if it says nothing that is known; the place is named in it.
    """
    try:
        told = json.loads(content)
        if told["set_manifest_version"] != _VERSION:
            raise ValueError(f"form {told['set_manifest_version']}, of another release")
        if told["state"] not in (UPLOADING, COMPLETE):
            raise ValueError(f"state {told['state']}")
        kind, _, digits = str(told["digest"]).partition(":")
        if kind != "sha256" or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError(f"digest {told['digest']}")
        return Published(
            complete=told["state"] == COMPLETE,
            digest=told["digest"],
            size=int(told["size"]),
            metrics={str(name): float(value) for name, value in told["metrics"].items() if value is not None},
            origin=_origin(told["origin"]),
            identity=str(told.get("identity", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteError(
            f"The manifest of the set says nothing that is known ({type(error).__name__}: {error})",
            place,
            "push the set again (`rdagent-sota push SET URL --replace`), or with the release that wrote it",
        ) from None


def _origin(told: dict[str, Any]) -> Origin:
    run, loop, accepted = told.get("run"), told.get("loop"), told.get("accepted")
    if accepted not in (True, False, None):
        raise ValueError(f"verdict {accepted}")
    return Origin(
        run=None if run is None else str(run),
        loop=None if loop is None else int(loop),
        workspace_id=str(told.get("workspace_id", "")),
        accepted=accepted,
    )
