"""What an index of packages shows and holds: the description, its links, and the source distribution."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from rdagent_sota_bridge import __version__
from tests.pages import ROOT, anchors


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with wheel and source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], check=True, cwd=ROOT)
    return folder


def test_an_index_takes_both(dist: Path) -> None:
    """`twine check --strict` finds nothing to mend."""
    words = [sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_link_of_the_description_leads_somewhere(dist: Path) -> None:
    """Links and pictures are absolute, and ours lead to this release's files in the repository."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    urls = dict(one.split(", ") for one in metadata.get_all("Project-URL", []))
    home = urls["Homepage"]
    assert all(url.startswith(home) for url in urls.values())
    description = metadata.get_payload(decode=True).decode()  # type: ignore[union-attr]
    targets = re.findall(r"\]\(([^)\s]+)\)", description)
    ours = [
        re.fullmatch(rf"{re.escape(home)}/(blob|raw)/v{__version__}/([^#]+)#?(.*)", one) for one in targets
    ]
    assert sum(found is not None for found in ours) > 20
    for target, found in zip(targets, ours, strict=True):
        assert target.startswith("https://")
        assert found or not target.startswith(home), target
        if found:
            file = ROOT / found[2]
            assert file.is_file(), target
            assert (found[1] == "raw") == (file.suffix == ".png")
            assert not found[3] or found[3] in anchors(file.read_text(encoding="utf-8")), target


def test_the_source_distribution_holds_what_make_needs(dist: Path) -> None:
    """It holds all that git tracks, but for what a forge reads."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()} - {"PKG-INFO"}
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert names <= tracked
    assert all(name.startswith((".github/", ".pre-commit")) for name in tracked - names)


def test_the_forge_runs_what_ci_runs() -> None:
    """The workflow of a forge calls .ci/run, and the issue form asks for the doctor's JSON."""
    forge = ROOT / ".github"
    steps = yaml.safe_load((forge / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    form = yaml.safe_load((forge / "ISSUE_TEMPLATE" / "bug.yml").read_text())["body"]
    assert form[0]["attributes"]["label"] == "rdagent-sota doctor --json"
    assert form[0]["validations"] == {"required": True}
