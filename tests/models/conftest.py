"""The project of the room's end-to-end tests: one run of RD-Agent for all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.script import SMALL_GRU, SMALL_MLP, Script
from tests import runs, seams
from tests.models.world import KEEPER, Project


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the project."""
    box, market = runs.box_with_market(tmp_path_factory.mktemp("box") / "b")
    seams.write_set(box.project / "set", seams.factor_frame(market, RESI5=1.0))
    on = {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": "set"}
    script = Script(models=(SMALL_MLP, SMALL_GRU, KEEPER))
    run = runs.rdagent(box, "fin_model", "--loop_n", "3", script=script, **on)
    assert run.status == 0, run.output[-3000:]
    assert run.log_folder is not None
    named = {str((model.manifest or {})["model"]["name"]): model.workspace for model in run.trained}
    return Project(box, market, run.log_folder, named)


@pytest.fixture
def project(trained_once: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Be a process in the project, with the switch off, no LLM, and RD-Agent's cache of qruns on.

    No log folder is made, and the market is as it was before after each test.
    """
    box = trained_once.box
    monkeypatch.chdir(box.project)
    before, kept = sorted(box.project.glob("log/*")), shutil.copytree(box.provider, tmp_path / "provider")
    with runs.inside(box, ENABLE_CACHE="true"):
        yield trained_once
    assert sorted(box.project.glob("log/*")) == before
    shutil.rmtree(box.provider)
    shutil.copytree(kept, box.provider)
