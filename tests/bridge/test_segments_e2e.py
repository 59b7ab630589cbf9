"""RD-Agent and Qlib for real, in other segments: no cache answers, and no back-test fails at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import runs, seams
from tests.bridge.test_e2e import ON, manifest_of, one_model

pytestmark = pytest.mark.e2e

VERIFY = (
    "import json, pathlib, sys; from rdagent_sota_bridge.report import history, verify; "
    "(found,) = verify.verify(history.read_run(pathlib.Path(sys.argv[1]))); "
    "print(json.dumps([found.state, found.evidence]))"
)


def test_a_model_has_the_figures_of_its_own_segments(tmp_path: Path) -> None:
    """One model text in other test segments is trained anew each time, and manifest and verify say in which.

    RD-Agent's two caches are on; ENABLE_CACHE also unset. An open end stops a run before its first call; the
    last day that the message names does work.
    """
    box, market = runs.box_with_market(tmp_path / "box")
    seams.write_set(box.project / "set", seams.factor_frame(market))
    last = str(market.days[-2].date())
    late = runs.rdagent(box, "fin_model", "--loop_n", "1", **ON, QLIB_MODEL_TEST_END="")
    assert (late.status, late.requests) == (1, []), late.output[-3000:]
    assert f"fix:   set QLIB_MODEL_TEST_END={last} or earlier" in late.output
    assert "Traceback" not in late.output
    cases: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("2017-01-01", last, {"ENABLE_CACHE": "true"}),
        ("2019-01-01", "2019-12-31", {"ENABLE_CACHE": "true"}),
        ("2018-01-01", "2019-12-31", {}),
    )
    seen: dict[str, set[Any]] = {"recorder": set(), "IC": set(), "code": set()}
    for start, end, variables in cases:
        segment = {"QLIB_MODEL_TEST_START": start, "QLIB_MODEL_TEST_END": end}
        run = runs.rdagent(box, "fin_model", "--loop_n", "1", **ON, **segment, **variables)
        model = one_model(run, 23)
        training = manifest_of(model)["training"]
        assert training["test"] == [f"{start} 00:00:00", f"{end} 00:00:00"]
        assert training["train"] == ["2008-01-01 00:00:00", "2014-12-31 00:00:00"]
        assert (training["market"], training["label"][:15]) == ("csi300", "Ref($close, -2)")
        seen["recorder"].add(json.loads((model.workspace / "sota_loaded.json").read_text())["recorder"])
        seen["IC"].add(model.metrics["IC"])
        seen["code"].add((model.workspace / "model.py").read_text())
        found = subprocess.run(
            [sys.executable, "-c", VERIFY, str(run.log_folder)],
            env=box.environment("http://127.0.0.1:1"),
            capture_output=True,
            text=True,
        )
        state, evidence = json.loads(found.stdout)
        assert state == "factors", found.stderr
        assert any(text.startswith("Qlib recorded the claimed train, valid, test") for text in evidence)
    assert {name: len(values) for name, values in seen.items()} == {"recorder": 3, "IC": 3, "code": 1}
