"""RD-Agent's settings of how factors' code is run, and of its data, without importing RD-Agent or pandas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rdagent_sota_bridge.errors import SettingsError

TIMEOUT = "FACTOR_CoSTEER_FILE_BASED_EXECUTION_TIMEOUT"
"""The setting of how long a factor's code may run."""


@dataclass(frozen=True)
class Execution:
    """How RD-Agent runs the code of a factor.

    Attributes:
        python_bin: The start of the shell command, before the name of the code's file; it may have arguments.
        data_folder: The folder whose files RD-Agent links beside the code.
        timeout: Seconds after which a run is ended.
    """

    python_bin: str
    data_folder: Path
    timeout: float


class _Folders(BaseSettings):
    """`FactorCoSTEERSettings` in `components/coder/factor_coder/config.py` (0.8.0 and 1.0.0): its folders."""

    model_config = SettingsConfigDict(env_prefix="FACTOR_CoSTEER_", extra="ignore")

    data_folder: str = "git_ignore_folder/factor_implementation_source_data"
    data_folder_debug: str = "git_ignore_folder/factor_implementation_source_data_debug"


class _FactorSettings(_Folders):
    """The same class: how code is run."""

    file_based_execution_timeout: int = 3600
    python_bin: str = "python"


def settings_of_rdagent(project: Path) -> Execution:
    """Return how RD-Agent runs factors in a project, from the environment, without importing RD-Agent.

    Args:
        project: The folder that `rdagent` is started in; the data folder is relative to it.

    Raises:
        SettingsError: if the timeout is no whole number.
    """
    try:
        found = _FactorSettings()
    except ValidationError as error:  # of the timeout: the others are text
        raise SettingsError(
            f"{TIMEOUT} has an unknown value: {str(error.errors()[0]['input'])!r}",
            f"environment variable or .env entry {TIMEOUT}",
            "expected a whole number of seconds, as RD-Agent does; then start again",
        ) from None
    folder = (project / found.data_folder).absolute()
    return Execution(found.python_bin, folder, found.file_based_execution_timeout)


def data_folders(project: Path) -> tuple[Path, Path]:
    """Return the folders of factor data in a project: that for all factors, and that for trying them."""
    found = _Folders()
    return project / found.data_folder, project / found.data_folder_debug
