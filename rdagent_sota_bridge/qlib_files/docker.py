"""What Qlib's container sees of this machine: a model's workspace, and Qlib's data as its `~/.qlib`.

RD-Agent is not imported: its two settings are read as it reads them (a test compares).
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.errors import SettingsError as BadSettingError
from rdagent_sota_bridge.settings import is_enabled

CONTAINER_HOME = "/root"
"""The home folder in RD-Agent's image, where `~` in the model YAML leads (`QlibDockerConf.extra_volumes`)."""

_WHERE_TO_MOUNT = f"{CONTAINER_HOME}/.qlib/"
_VARIABLE = "QLIB_DOCKER_EXTRA_VOLUMES"


class _Place(BaseSettings):
    """`ModelCoSTEERSettings` in `components/coder/model_coder/conf.py` (0.8.0 and 1.0.0)."""

    model_config = SettingsConfigDict(env_prefix="MODEL_CoSTEER_", extra="ignore")

    env_type: str = "conda"


class _Volumes(BaseSettings):
    """`QlibDockerConf` in `utils/env.py` (0.8.0, 1.0.0); its base class has the variable without prefix."""

    model_config = SettingsConfigDict(extra="ignore")

    extra_volumes: dict[str, Any] | None = None


class _PrefixedVolumes(_Volumes):
    model_config = SettingsConfigDict(env_prefix="QLIB_DOCKER_", extra="ignore")


def env_type() -> str:
    """Return where RD-Agent's settings say that Qlib runs: `conda`, `docker`, or what it does not know."""
    return _Place().env_type


def volumes() -> dict[str, str]:
    """Return what RD-Agent mounts into Qlib's container beside a workspace: host folder to container folder.

    Raises:
        rdagent_sota_bridge.errors.SettingsError: if the setting means nothing; RD-Agent would not start.
    """
    try:
        both = [_Volumes().extra_volumes, _PrefixedVolumes().extra_volumes]
        if both == [None, None]:
            return {str(Path("~/.qlib/").expanduser().resolve()): _WHERE_TO_MOUNT}
        named = {host: place for each in both for host, place in (each or {}).items()}  # pydantic joins them
        binds = {host: at.get("bind") if isinstance(at, Mapping) else at for host, at in named.items()}
        return TypeAdapter(dict[str, str]).validate_python(binds)
    except (ValidationError, SettingsError) as error:
        raise BadSettingError(
            f"{_VARIABLE} can't be read: {' '.join(str(error).split())}",
            f"environment variable or .env entry {_VARIABLE}, a setting of RD-Agent's",
            'write it as {"/data/qlib": {"bind": "/root/.qlib/", "mode": "rw"}}',
        ) from None


def on_host(folder: str) -> Path | None:
    """Return the folder of this machine that Qlib means by a path; None for one that the container keeps.

    Without a container it is the path itself, with `~` expanded.

    Args:
        folder: As a Qlib configuration has it (`provider_uri`).

    Raises:
        rdagent_sota_bridge.errors.SettingsError: if the setting of the mounts means nothing.
    """
    if not is_qlib_in_docker():
        return Path(folder).expanduser()
    inside = PurePosixPath(
        posixpath.normpath(f"{CONTAINER_HOME}{folder[1:]}" if folder[:2] == "~/" else folder)
    )
    mounts = [(PurePosixPath(bind), host) for host, bind in volumes().items()]
    # The deepest mount hides what is mounted above it. A host that is no path is a volume of Docker's own.
    for bind, host in sorted(mounts, key=lambda mount: -len(mount[0].parts)):
        if inside.is_relative_to(bind):
            return Path(host) / inside.relative_to(bind) if Path(host).is_absolute() else None
    return None


def is_qlib_in_docker() -> bool:
    """Return True where RD-Agent's settings say that Qlib runs in a container."""
    return _Place().env_type == "docker"


def shown(folder: str) -> str:
    """Return a path of a Qlib configuration as a message names it: where it is on this machine."""
    place = on_host(folder)
    if place is None:
        return f"{folder} in the container, where {_VARIABLE} mounts no folder of this machine"
    return str(place) if is_qlib_in_docker() else folder


# --- the seam ---


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/utils/env.py` (0.8.0, 1.0.0): `QTDockerEnv` keeps its mounts.

    All `QTDockerEnv` share one configuration, the default of `__init__`. `get_model_env`
    (`components/coder/model_coder/conf.py`), which every `fin_model` calls first, empties its mounts and sets
    its timeout to ten minutes. `prepare` then ends in a StopIteration: no run with Qlib in Docker begins
    (microsoft/RD-Agent#1428), and a back-test would be killed after ten minutes. Here, in a run with the
    factors, each has a copy, and one without mounts gets the default's.
    """
    environment = getattr(module, "QTDockerEnv", None)
    defaults = getattr(getattr(environment, "__init__", None), "__defaults__", None)
    if environment is None or not defaults or not hasattr(defaults[0], "extra_volumes"):
        raise SeamError("RD-Agent's QTDockerEnv has a form that is not known", module.__name__, OTHER_RELEASE)
    init_before, prepare_before, (shared,) = environment.__init__, environment.prepare, defaults
    mounted = dict(shared.extra_volumes)

    @functools.wraps(init_before)
    def __init__(self: Any, conf: Any = shared) -> None:  # noqa: N807 - it replaces one
        init_before(self, conf.model_copy(deep=True) if conf is shared and _asked() else conf)

    @functools.wraps(prepare_before)
    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.conf.extra_volumes and _asked():
            self.conf.extra_volumes = dict(mounted)
        return prepare_before(self, *args, **kwargs)

    return [(environment, "__init__", __init__), (environment, "prepare", prepare)]


def _asked() -> bool:
    try:
        return is_enabled()
    except BadSettingError:  # the run's check, which comes later, stops it for that
        return True
