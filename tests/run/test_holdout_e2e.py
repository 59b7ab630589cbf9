"""A holdout for real: a factor that knows the future inside the test segment, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from examples.demo.llm import ScriptedLLM
from examples.demo.market import write_market, write_source_data
from examples.demo.sandbox import create
from examples.demo.script import OVERNIGHT_GAP, SMALL_MLP, Script
from rdagent_sota_bridge.qlib_files import training_record
from tests import runs

pytestmark = pytest.mark.e2e

NAME = "z_leak"  # Qlib sorts the columns: it is the last one

LEAK = f'''\
import numpy as np
import pandas as pd

prices = pd.read_hdf("daily_pv.h5", key="data")
close = prices["$close"].unstack()
label = close.shift(-2) / close.shift(-1) - 1
noise = np.random.default_rng(3).normal(0, 0.01, label.shape)
known = (label.index >= "2017-01-01") & (label.index < "2018-09-01")
values = (label.fillna(0.0).mul(known.astype(float), axis=0) + noise).stack()
values.rename("{NAME}").to_frame().to_hdf("result.h5", key="data")
'''

LAST_COLUMN = '''\
import torch
from torch import nn


class LastColumn(nn.Module):
    """(batch, features) to (batch, 1)."""

    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1:] + self.shift


model_cls = LastColumn
'''

SCRIPT = Script(
    factors=(dataclasses.replace(OVERNIGHT_GAP, name=NAME, code=LEAK),),
    models=(dataclasses.replace(SMALL_MLP, name="LastColumn", code=LAST_COLUMN),),
)
INSTRUMENTS, NOISE = 100, 0.045
"""With the 75 days of the holdout the IC of noise has a standard deviation of 0.0115: NOISE is four."""


def test_a_leak_inside_the_test_segment(tmp_path: Path) -> None:
    """The test segment takes it for the best factor there is; the holdout, and so the headline, does not."""
    box = create(tmp_path / "box")
    write_source_data(write_market(box.provider, width=INSTRUMENTS), box.project)
    command = [str(box.python.parent / "rdagent-sota"), "run", "--factor-loops", "1", "--model-loops", "1"]
    command += ["--baseline", "--seeds", "1", "--jobs", "2", "--holdout", "24M"]

    def run(command: list[str], url: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(prefix="sota-") as temporary:
            return subprocess.run(
                command,
                cwd=box.project,
                env=box.environment(url, TMPDIR=temporary, **runs.CONDA, **variables),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
            )

    with ScriptedLLM(SCRIPT) as llm:
        done = run(command, llm.url)
    assert (done.returncode, llm.unknown) == (0, []), done.stdout[-6000:] + done.stderr[-3000:]
    (file,) = box.project.glob("log/*_run.json")
    held: dict[str, Any] = json.loads(file.read_text())["holdout"]
    assert held["test_ends"] == {"factors": "2018-08-17", "models": "2018-08-17"}
    (line,) = (box.project / "sota_holdout.jsonl").read_text().splitlines()
    opening = json.loads(line)
    assert (held["first"], held["last"]) == ("2018-09-17", "2020-09-10")
    assert (opening["first"], opening["last"]) == (held["first"], held["last"])
    assert (opening["model"] != opening["ablation"]) and opening["before"] == 0
    root = box.project / runs.WORKSPACES
    models = [root / opening[side] for side in ("model", "ablation")]
    tested = [training_record.read(folder.parent) for folder in root.glob("*/mlruns")]
    ends = {str(one.task.test[1].date()) for one in tested if one is not None and one.task is not None}
    assert (ends, None in tested) == ({"2018-08-17"}, False), "what all workspaces say"
    assert len(tested) >= 5, "with the best model's pair of a seed"
    made = json.loads((root / opening["ablation"] / "sota_manifest.json").read_text())["retrained"]
    assert made["change"] == {"columns": []}, "the ablation that is opened has no seed"
    ics = [runs.model_in(folder).metrics["IC"] for folder in models]
    assert ics[0] > 0.5
    assert abs(ics[1]) < 0.1
    assert (opening["ic"]["days"], opening["seen_by"]) == (75, 0)
    assert abs(opening["ic"]["mean"]) < NOISE
    assert abs(opening["base"]["mean"]) < NOISE
    assert "Holdout, 2018-09-17 to 2020-09-10, 75 days, opened " in done.stdout
    assert f"): IC {opening['ic']['mean']:.4f} [" in done.stdout
    (page,) = box.project.glob("log/*_report.html")
    text = page.read_text()
    head = text[text.index("<h1>") : text.index('<div class="tiles">')]
    assert head.startswith("<h1>No difference can be told: with the factors the models’ IC changes by ")
    assert "That is of the holdout, 2018-09-17 to 2020-09-10 (75 days" in head
    assert "by which models and factors were chosen: The factors make the models better" in head
    assert "What a holdout can’t cure" in head
    (cache,) = (box.project / "pickle_cache").iterdir()
    assert file.name.startswith(cache.name), "no cache of another run can answer"
    # Another process later, whose settings have moved on: the same figures, and it is counted.
    log = str(next(iter(box.project.glob("log/*/__session__"))).parent.parent / opening["log"])
    again = run([command[0], "holdout", log], "http://127.0.0.1:9", QLIB_MODEL_TEST_END="2020-08-31")
    assert "These days were opened 1 time before" in again.stdout, again.stdout + again.stderr
    first, second = map(json.loads, (box.project / "sota_holdout.jsonl").read_text().splitlines())
    assert {**second, "opened": first["opened"], "before": 0} == first
    output = box.project / "again.html"
    told = run([command[0], "report", log, "-o", str(output)], "http://127.0.0.1:9")
    assert told.returncode == 0, told.stderr
    assert "of which no segment of this project has a day. These days were opened 1 time before." in (
        output.read_text()
    )
