"""What an index of packages shows and holds: the description, its links, and the source distribution."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import yaml

from rdagent_sota_bridge import __version__

ROOT = Path(__file__).parent.parent


def command(*words: str | Path) -> str:
    """Return what a command says that has to succeed, in the checkout."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with wheel and source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "hatchling", "build", "-d", folder)
    return folder


@pytest.fixture(scope="module")
def metadata(dist: Path) -> Message:
    """Return what the wheel says of itself."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the forge makes them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures, in Markdown or HTML."""
    found = re.findall(
        r"""\]\(\s*([^)\s]*)|^\[[^\]]+\]:\s*(\S+)|(?:href|src|srcset)=["']([^"']*)""", text, re.MULTILINE
    )
    return ["".join(groups) for groups in found]


def test_an_index_takes_both(dist: Path, metadata: Message) -> None:
    """`twine check --strict` passes both; their metadata is of a form that older twines of an index know."""
    said = command(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))
    assert said.count("PASSED") == 2, said
    assert metadata["Metadata-Version"] == "2.4"


def test_every_link_of_the_description_leads_somewhere(metadata: Message) -> None:
    """Each is absolute; ours, at the urls' address, names a file of this release, and a heading in it."""
    home = dict(one.split(", ") for one in metadata.get_all("Project-URL", []))["Homepage"]
    body = metadata.get_payload(decode=True)
    assert isinstance(body, bytes)
    found, written = links(body.decode()), links((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(found) == len(written) > 0
    for target, before in zip(found, written, strict=True):
        if re.match(r"https?://", before):
            assert target == before
            continue
        ours = re.fullmatch(rf"{re.escape(home)}/(blob|raw)/v{__version__}/([^#]+)(?:#(.+))?", target)
        assert ours, f"{before} became {target}"
        kind, name, anchor = ours.groups()
        assert (ROOT / name).exists(), target
        assert (kind == "raw") == name.endswith((".png", ".svg", ".gif")), target
        assert anchor is None or anchor in anchors(ROOT / name), target


def test_the_source_distribution_holds_what_make_needs(dist: Path, tmp_path: Path) -> None:
    """It holds every file that git does not ignore, so that `make test` runs in it, and nothing else."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    # An empty repository of its own: a source distribution that is unpacked has none.
    command("git", "init", "--quiet", "--bare", tmp_path)
    git = ("git", f"--git-dir={tmp_path}", f"--work-tree={ROOT}")
    listed = command(*git, "ls-files", "--others", "--exclude-standard", "-z")
    assert names == {*listed.split("\0"), "PKG-INFO"} - {""}


def test_a_forge_runs_what_ci_runs() -> None:
    """The workflow calls .ci/run and nothing else, and a report of a bug needs the doctor's JSON."""
    forge = ROOT / ".github"
    steps = yaml.safe_load((forge / "workflows" / "ci.yml").read_text())["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    form = yaml.safe_load((forge / "ISSUE_TEMPLATE" / "bug.yml").read_text())["body"]
    (doctor,) = (field for field in form if field.get("id") == "doctor")
    assert doctor["attributes"]["label"] == "rdagent-sota doctor --json"
    assert doctor["validations"] == {"required": True}
