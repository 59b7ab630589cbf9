"""What needs no import of pandas or RD-Agent: Docker, the LLM's variables, time limits, the disk."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rdagent_sota_bridge.check import disk, factor_settings
from rdagent_sota_bridge.check.line import Line, State, at_most, lines_of
from rdagent_sota_bridge.errors import SettingsError
from rdagent_sota_bridge.factor_set.names import workspace_root
from rdagent_sota_bridge.qlib_files import docker
from rdagent_sota_bridge.settings import read_settings

LEAST_SECONDS = 600
"""What a back-test on a real market may take: a limit below it ends trainings that went well."""

_DOCKER = "unix:///var/run/docker.sock"  # where Docker's own client for Python looks without DOCKER_HOST
_LLM = ("BACKEND", "CHAT_MODEL", "EMBEDDING_MODEL")
_LLM_ENDS = ("API_KEY", "API_BASE", "BASE_URL", "API_VERSION")


class _Limit(BaseSettings):
    """`EnvConf` in `utils/env.py` (0.8.0, 1.0.0)."""

    model_config = SettingsConfigDict(env_parse_none_str="None", extra="ignore")

    running_timeout_period: int | None = 3600


class _LimitInDocker(_Limit):
    """`QlibDockerConf` there; without a variable of its own it has that of `EnvConf`."""

    model_config = SettingsConfigDict(env_prefix="QLIB_DOCKER_", env_parse_none_str="None", extra="ignore")


def lines(factors: State) -> list[Line]:
    """Return the lines; `factors` is the worst state of one about factor loops alone."""
    try:
        read_settings()
        found = []
    except SettingsError as error:
        found = lines_of(error, "settings")
    return [
        *found,
        docker_line(look_at_docker(), missing_data(), factors),
        llm_line([name for name, value in os.environ.items() if value]),
        limits_line(),
        disk.room_line(0, workspace_root()),
    ]


def missing_data() -> list[Path]:
    """Return the folders of factor data that are not there.

    RD-Agent makes both anew then, in Docker whatever MODEL_CoSTEER_ENV_TYPE says (`get_data_folder_intro` in
    `scenarios/qlib/experiment/utils.py`, 0.8.0 and 1.0.0).
    """
    return [folder for folder in factor_settings.data_folders(Path.cwd()) if not folder.exists()]


def look_at_docker() -> str:
    """Return why Docker does not answer a ping; empty where it does."""
    host = os.environ.get("DOCKER_HOST") or _DOCKER
    try:
        named = urlsplit(host)
        if named.scheme == "unix":
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(2)
            where: str | tuple[str, int] = named.path
        else:
            stream = socket.socket()
            stream.settimeout(2)
            where = (named.hostname or "localhost", named.port or 2375)
        with stream:
            stream.connect(where)
            stream.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            said = stream.recv(64).decode("ascii", "replace").partition("\r")[0]
    except (OSError, ValueError) as error:
        return f"{host}: {getattr(error, 'strerror', None) or error}"
    return "" if " 200 " in said else f"{host}: {said or 'no answer'}"


def docker_line(trouble: str, missing: list[Path], factors: State) -> Line:
    """Return the line about Docker.

    Args:
        trouble: Why it does not answer; empty where it does.
        missing: The folders of factor data that are to be made.
        factors: The worst state of a line about factor loops alone.
    """
    for_qlib, figures = docker.env_type() == "docker", {"trouble": trouble or None}
    if not trouble:
        return Line("docker", "pass", "Docker answers", figures=figures)
    if not for_qlib and not missing:
        text = f"not needed: Qlib runs in conda, and the factor data is there (no answer, {trouble})"
        return Line("docker", "pass", text, figures=figures)
    why = "Qlib runs in Docker (MODEL_CoSTEER_ENV_TYPE=docker)"
    why = why if for_qlib else f"fin_factor makes its data in it ({', '.join(map(str, missing))} not there)"
    fix = "start Docker, or let this user use it: sudo usermod -aG docker $USER, then log in anew"
    line = Line("docker", "fail", f"no answer ({trouble}), and {why}", fix, figures)
    return line if for_qlib else at_most(line, factors)


def llm_line(names: list[str]) -> Line:
    """Return the line about the variables of the LLM, by the names of the variables that have a value."""
    shown = sorted(name for name in names if name.upper() in _LLM or name.upper().endswith(_LLM_ENDS))
    upper, figures = {name.upper() for name in shown}, {"set": shown}
    # `LLMSettings` in `oai/llm_conf.py` (0.8.0, 1.0.0): both models are OpenAI's by default.
    default = [name for name in _LLM[1:] if name not in upper]
    text = f"set: {', '.join(shown) or 'nothing'}"
    if not any(name.endswith("API_KEY") for name in upper):
        fix = "set what LiteLLM wants for your model, such as OPENAI_API_KEY, in the environment or in .env"
        return Line("llm", "warn", f"{text}; no name of a key is among it", fix, figures)
    if default and "OPENAI_API_KEY" not in upper:
        text += f"; {' and '.join(default)} not set, and RD-Agent's own needs OPENAI_API_KEY"
        fix = f"set {' and '.join(default)} to a model whose key you have, such as deepseek/deepseek-chat"
        return Line("llm", "warn", text, fix, figures)
    return Line("llm", "pass", text, figures=figures)


def limits_line() -> Line:
    """Return the line about RD-Agent's time limits; it fails for one that ends RD-Agent in a traceback."""
    in_docker = docker.env_type() == "docker"
    name = "QLIB_DOCKER_RUNNING_TIMEOUT_PERIOD" if in_docker else "RUNNING_TIMEOUT_PERIOD"
    try:
        outer = _Limit()
        given = _LimitInDocker() if in_docker else outer
        limit = (given if given.model_fields_set else outer).running_timeout_period
    except ValidationError as error:
        text = f"{name} is no number of seconds: {str(error.errors()[0]['input'])!r}"
        return Line("time limits", "fail", f"{text}; RD-Agent would not start", "write it as 3600, or None")
    try:
        factors = factor_settings.settings_of_rdagent(Path.cwd()).timeout
    except SettingsError as error:
        return lines_of(error, "time limits")[0]
    text = f"a back-test {'has none' if limit is None else f'{limit:,} s'} ({name}), a factor's code "
    text += f"{factors:,} s ({factor_settings.TIMEOUT}), a try of a model's code 600 s (no setting)"
    figures = {name: limit, factor_settings.TIMEOUT: factors}
    state: State = "pass" if limit is None or limit >= LEAST_SECONDS else "warn"
    fix = f"set {name}={LEAST_SECONDS} or more: a training that is cut off there is lost, with its loop"
    return Line("time limits", state, text, fix if state == "warn" else "", figures)
