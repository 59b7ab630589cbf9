"""Which rooms of the package know RD-Agent."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

ROOMS = (
    "settings",
    "accepted",
    "locate",
    "factors",
    "alpha",
    "market",
    "mounts",
    "qlib_config",
    "yaml_template",
    "dry_run",
    "stop",
    "manifest",
    "errors",
    "patch",
    "cli",
    "session_files",
    "sessions",
    "listing",
    "memory",
    "names",
    "model_verdict",
    "files",
    "panel",
    "normal",
    "store",
    "choice",
    "correlation",
    "label",
    "environment",
    "qlib_environment",
    "figures",
    "quality",
    "checks",
    "lookahead",
    "cutting",
    "rerun",
    "pickled",
    "qlib_record",
    "history",
    "performance",
    "verification",
    "tearsheet",
    "appraisal",
    "comparison",
    "report",
    "page",
    "run.job",
    "child",
    "run.sequence",
    "run.display",
    "run.locks",
    "cli.run",
    "source",
    "source_file",
    "cli.patch",
    "urls",
    "remote",
    "fetch",
    "fetched",
    "push",
    "cli.push",
)

IMPORTS = f"""
import importlib, json, sys
found = {{}}
for room in {ROOMS!r}:
    before = set(sys.modules)
    importlib.import_module(f"rdagent_sota_bridge.{{room}}")
    new = set(sys.modules) - before
    found[room] = sorted(name for name in new if name.split(".")[0] in ("rdagent", "qlib", "torch"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """Return what each room brings along of RD-Agent, in one process: the first that does is named."""
    process = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(process.stdout)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_that_need_not_know_rdagent_does_not_import_it(
    room: str, imported: dict[str, list[str]]
) -> None:
    """Rooms that do not know RD-Agent start fast and work without it."""
    assert imported[room] == []
