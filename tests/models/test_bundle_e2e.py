"""Models that RD-Agent trained, taken away: the same scores from plain files, without it and a project."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import BundleError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import bundle, export
from tests.models.world import Project, predictions, same_bits

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("models")]  # one run for all


@pytest.mark.parametrize("name", ["SmallMLP", "SmallGRU"])
def test_the_same_scores_without_rdagent(name: str, project: Project, tmp_path: Path) -> None:
    """To the bit by the command, in a folder where RD-Agent can't be imported, and by the bundle alone."""
    of = project.models[name]
    made = export.make(of)
    old = predictions(of)
    assert (made.rows, made.difference, export.make(of).content) == (len(old), 0.0, made.content)
    assert len(made.content) < 30_000
    file, away = tmp_path / "model.zip", tmp_path / "away"
    file.write_bytes(made.content)
    found = bundle.read(file)
    assert str(project.box.folder).encode() not in made.content
    (away / "no" / "rdagent").mkdir(parents=True)
    (away / "no" / "rdagent" / "__init__.py").write_text("raise ImportError('RD-Agent is not here')")
    days = [str(day.date()) for day in old.index.unique("datetime")[[0, -1]]]
    options = ["--trust", found.digest, "--date", ":".join(days), "-o", "scores.parquet"]

    def predict(factors: Path) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from rdagent_sota_bridge.cli import app; app()"]
        return subprocess.run(
            [*program, "predict", str(file), "--factors", str(factors), *options],
            cwd=away,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(away / "no"), *sys.path])},
            capture_output=True,
            text=True,
        )

    said = predict(of / FACTOR_FILE)
    assert said.returncode == 0, said.stderr
    scores = pd.read_parquet(away / "scores.parquet").set_index(list(old.index.names))["score"]
    assert same_bits(scores.sort_index().astype(old.dtype), old.sort_index())
    assert sorted(one.name for one in away.iterdir()) == ["no", "scores.parquet", "scores.parquet.json"]
    begun = pd.read_parquet(of / FACTOR_FILE).loc[days[0] :]
    begun.to_parquet(tmp_path / "begun.parquet")
    said = predict(tmp_path / "begun.parquet")  # the GRU looks at the days before, too
    refused = f"Features begin on {days[0]}, and the model looks at days from" in said.stderr
    assert (said.returncode, refused) == ((0, False) if name == "SmallMLP" else (1, True)), said.stderr
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "plain")
    command = [str(project.box.qlib_python), "predict.py", str(of / FACTOR_FILE), "scores.parquet"]
    subprocess.run(command, cwd=tmp_path / "plain", check=True, capture_output=True)
    assert same_bits(pd.read_parquet(tmp_path / "plain" / "scores.parquet")["score"], old)


def test_a_network_that_keeps_more_than_its_weights(project: Project) -> None:
    """It is refused, with the reason; what Qlib pickled has that value."""
    of = project.models["Keeper"]
    before = sorted(of.iterdir())
    with pytest.raises(BundleError, match="keeps what its weights") as caught:
        export.make(of)
    assert "register_buffer" in caught.value.fix
    assert sorted(of.iterdir()) == before
