"""The wheel in a fresh environment that holds RD-Agent already: installed, used, uninstalled."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from rdagent_sota_bridge import __version__

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent
UV = Path(sys.prefix) / "bin" / "uv"
STATES = "from rdagent_sota_bridge import patch; import rdagent.log; print(patch.status()[1].state)"
IDLE = "import sys; print(*sorted(name for name in sys.modules if name.startswith('rdagent')))"


class Environment:
    """A fresh virtual environment."""

    def __init__(self, folder: Path) -> None:
        """Create it, without pip."""
        self.folder = folder
        command([UV, "venv", "--quiet", "--python", sys.executable, folder])
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")

    def install(self, *what: str | Path) -> None:
        """Install packages with uv."""
        command([UV, "pip", "install", "--quiet", "--python", self.python, *what])

    def uninstall(self) -> None:
        """Uninstall ours."""
        command([UV, "pip", "uninstall", "--quiet", "--python", self.python, "rdagent-sota-bridge"])

    def versions(self) -> set[str]:
        """Return name==version of everything that is installed."""
        return set(command([UV, "pip", "freeze", "--python", self.python]).stdout.split("\n")) - {""}

    def files(self) -> set[str]:
        """Return the names in site-packages and in bin, without what Python compiles."""
        names = {entry.name for folder in (self.packages, self.folder / "bin") for entry in folder.iterdir()}
        return names - {"__pycache__"}

    def run(self, *words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs."""
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
        }
        environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANG": "C.UTF-8", "COLUMNS": "200"}
        program = [self.folder / "bin" / words[0], *words[1:]]
        return subprocess.run(
            program, capture_output=True, text=True, env=environment, cwd=folder or self.folder
        )


def command(words: list[str | Path], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed, in a folder."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


def test_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    """Installing changes no other version and activates; uninstalling leaves nothing; editable too."""
    command([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"])
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    command([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path / "dist"])
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {Path(name).name for name in archive.getnames() if "/patches/" in name}
    assert packed == {"README.md", "block.txt", "old.txt"}
    fresh = Environment(tmp_path / "fresh environment")
    # What the package requires, and RD-Agent does not bring: statsmodels, with what that requires.
    before = ("rdagent", "pandas", "statsmodels")
    fresh.install(*(f"{name}=={metadata.version(name)}" for name in before))
    versions, files = fresh.versions(), fresh.files()
    refused = fresh.run("rdagent", "fin_model", "--loop_n", "many")
    assert "No such option: --loop_n" in refused.stderr

    fresh.install(wheel)
    assert {line.split("==")[0].split(" @")[0] for line in fresh.versions() - versions} == {
        "rdagent-sota-bridge"
    }
    assert versions <= fresh.versions()
    assert fresh.run("python", "-c", IDLE).stdout.split() == ["rdagent_sota_bridge"]
    assert fresh.run("python", "-c", STATES).stdout.split()[-1] == "applied"
    for option in ("--loop_n", "--loop-n"):
        understood = fresh.run("rdagent", "fin_model", option, "many")
        assert understood.returncode == 2
        assert "No such option" not in understood.stderr
        assert "Invalid value for '--loop-n'" in understood.stderr
    assert fresh.run("rdagent-sota", "--version").stdout == f"rdagent-sota-bridge {__version__}\n"
    for words, said in (("status", "none: "), ("apply", "applied "), ("revert", "took ")):
        patch = fresh.run("rdagent-sota", "patch", words)
        assert (patch.returncode, patch.stdout[: len(said)]) == (0, said), patch.stderr
    assert not {"examples", "demo"} & fresh.files()

    fresh.uninstall()
    assert fresh.files() == files
    assert fresh.versions() == versions
    assert fresh.run("python", "-c", IDLE).stdout.split() == []

    fresh.install("--no-deps", "--editable", ROOT)
    assert {"rdagent-sota-bridge.pth", "rdagent-sota-bridge.start"} <= fresh.files()
    assert "rdagent_sota_bridge" not in fresh.files(), "an editable installation is a path to the checkout"
    assert fresh.run("rdagent-sota", "patch", "status").stdout.startswith("none: ")
    assert fresh.run("python", "-c", STATES).stdout.split()[-1] == "applied"
    fresh.uninstall()
    assert fresh.files() == files
