"""What the rooms import as they are loaded; which room may import which stands in pyproject.toml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import rdagent_sota_bridge

PACKAGE = Path(rdagent_sota_bridge.__file__).parent
KNOW_RDAGENT = ("bridge", "doctor", "runner", "source", "patch")

IMPORTS = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(f"rdagent_sota_bridge.{name}")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_rooms_that_do_not_know_rdagent_start_without_it() -> None:
    """Loading them, and the command line with all its commands, loads no RD-Agent, Qlib or torch."""
    files = [file.relative_to(PACKAGE).with_suffix("") for file in PACKAGE.rglob("*.py")]
    modules = [".".join(file.parts) for file in sorted(files) if file.name != "__init__"]
    modules = [name for name in modules if not {*KNOW_RDAGENT, "qlib_side"} & set(name.split("."))]
    assert len(modules) > 40
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(modules)], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert {"rdagent_sota_bridge", "pandas", "typer"} <= loaded
    assert not {"rdagent", "qlib", "torch"} & loaded
