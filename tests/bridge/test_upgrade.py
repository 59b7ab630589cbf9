"""One run through the life of an installation: killed, upgraded, uninstalled; and resumed each time."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from rdagent_sota_bridge import __version__
from tests import runs, seams
from tests.faults import another_disk
from tests.test_wheel import ROOT, Environment, command

pytestmark = pytest.mark.e2e

LATER = "99.0.0"


def wheels(folder: Path) -> tuple[Path, Path]:
    """Build the wheel of this checkout, and one of a later release."""
    found = []
    for version in (__version__, LATER):
        tree = folder / version
        tree.mkdir(parents=True)
        shutil.copytree(ROOT / "rdagent_sota_bridge", tree / "rdagent_sota_bridge")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        init = tree / "rdagent_sota_bridge" / "__init__.py"
        text = init.read_text(encoding="utf-8")
        assert f'"{__version__}"' in text
        init.write_text(text.replace(f'"{__version__}"', f'"{version}"'), encoding="utf-8")
        command([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], folder=tree)
        (wheel,) = folder.glob(f"*-{version}-*.whl")
        found.append(wheel)
    return found[0], found[1]


def environment_beside_this(folder: Path) -> Environment:
    """Return a fresh environment that sees what this one holds, but for our package; with `rdagent`."""
    fresh = Environment(folder)
    # A path in a .pth is looked at for modules; the .pth files there (ours among them) are not run.
    (fresh.packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = folder / "bin" / "rdagent"
    script.write_text(f"#!{fresh.python}\nfrom rdagent.app.cli import app\napp()\n")
    script.chmod(0o755)
    return fresh


def test_killed_upgraded_and_uninstalled(tmp_path: Path) -> None:
    """Each resume works: with the set after a kill and an upgrade, without it once the package is gone.

    The workspaces lie on another disk than the store (where the machine has two), so that each gets a copy;
    the set was moved before the second start.
    """
    first, later = wheels(tmp_path / "dist")
    fresh = environment_beside_this(tmp_path / "fresh")
    fresh.install("--no-deps", first)
    box, market = runs.box_with_market(tmp_path / "box", fresh.python, Path(sys.executable))
    seams.write_set(box.project / "set", seams.factor_frame(market))
    with another_disk(tmp_path) as disk:
        variables = {
            "LOAD_SOTA_FROM_WORKSPACE": "true",
            "SOTA_WORKSPACE_PATH": "set",
            "SOTA_STORE_PATH": str(box.project / "store"),
            "WORKSPACE_PATH": str(disk / "workspaces"),
        }
        workspaces = disk / "workspaces"

        def is_training() -> bool:
            return any(workspaces.glob("*/mlruns/[0-9]*/*/params/*"))

        log = runs.killed(box, "fin_model", "--loop_n", "1", when=is_training, **variables)
        assert not list(workspaces.glob("*/sota_manifest.json"))

        fresh.install("--no-deps", later)
        (box.project / "set").rename(box.project / "moved")
        variables["SOTA_WORKSPACE_PATH"] = "moved"
        session = str(log / "__session__")
        run = runs.rdagent(box, "fin_model", "--path", session, "--loop_n", "1", **variables)
        assert run.status == 0, run.output[-3000:]
        assert (
            f"This run began with rdagent-sota-bridge {__version__}, and goes on with {LATER}" in run.text_log
        )
        assert "Start Loop 0, Step 2: running" in run.text_log
        assert "Start Loop 0, Step 1" not in run.text_log, "what was done before the kill is not done again"
        manifests = list(workspaces.glob("*/sota_manifest.json"))
        assert len(manifests) == 1
        model = runs.model_in(manifests[0].parent)
        assert model.metrics["IC"] > 0.6
        assert model.manifest is not None
        assert model.manifest["versions"]["rd_agent_side"]["rdagent-sota-bridge"] == LATER
        assert model.manifest["factor_set"]["path"].startswith(str(box.project / "moved"))
        same_disk = disk.stat().st_dev == box.project.stat().st_dev
        assert (model.manifest["factor_set"]["stored"]["placed_as"] == "copy") is not same_disk

        fresh.uninstall()
        assert "No module named" in fresh.run("python", "-c", "import rdagent_sota_bridge").stderr
        run = runs.rdagent(box, "fin_model", "--path", session, "--loop-n", "2", **variables)
        assert run.status == 0, run.output[-3000:]
        (plain,) = run.trained
        assert abs(plain.metrics["IC"]) < 0.2
        assert (plain.width, run.manifests) == (20, [])
