"""The hand-off to its end, with a qrun that fails in ways the real one can't be made to.

The real qrun runs in test_e2e; here the programs `qrun` and `python` of Qlib's environment are stand-ins that
leave the files which a test asks for, so that every way a training can end is looked at in a moment.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from examples.demo import sandbox
from examples.demo.market import Market
from rdagent_sota_bridge.bridge.plan import record_of
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22
from rdagent_sota_bridge.qlib_files.manifest import LOADED_FILE, MANIFEST_FILE
from rdagent_sota_bridge.system import files
from tests import seams

STAND_IN = """#!{python}
import json, os, shutil, sys
from pathlib import Path
box = Path({box!r})
what = json.loads((box / "what.json").read_text())
with (box / "calls.txt").open("a") as calls:
    calls.write(Path(sys.argv[0]).name + "\\n")
if Path(sys.argv[0]).name == "qrun":
    (box / "environment.json").write_text(json.dumps(dict(os.environ)))
    exec(what["does"])
    runs = (box / "calls.txt").read_text().split().count("qrun")
    if runs <= what["races"]:
        print("MlflowException: Metric 'Rank IC' is malformed; No data found.")
        sys.exit(1)
    Path("ran").touch()
elif Path("ran").exists():
    for name in ("ret.parquet", "ret.pkl", "qlib_res.csv"):
        shutil.copy(box / name, name)
    if what["loaded"] is not None:
        Path("sota_loaded.json").write_text(json.dumps(what["loaded"]))
"""


@dataclass
class Qlib:
    """The stand-in for Qlib's environment."""

    box: Path
    set: Path
    market: Any
    columns: list[str] = field(default_factory=lambda: sorted({*ALPHA22, "overnight_gap"}))

    def will(self, *, races: int = 0, does: str = "", **loaded: Any) -> None:
        """Say how often qrun dies of the race, what code it runs first, and what Qlib will have loaded."""
        content = {
            "recorder": "r",
            "columns": self.columns,
            "columns_without_training_values": [],
            "columns_without_spread": [],
            "num_features": len(self.columns),
            "versions": {"qlib": "0.9.7"},
        }
        what = {"races": races, "does": does, "loaded": {**content, **loaded}}
        (self.box / "what.json").write_text(json.dumps(what))
        (self.box / "calls.txt").write_text("")

    def will_leave_no_record(self) -> None:
        """Say that what Qlib loaded can't be read back."""
        (self.box / "what.json").write_text(json.dumps({"races": 0, "does": "", "loaded": None}))

    @property
    def runs(self) -> int:
        """How often qrun was started."""
        return (self.box / "calls.txt").read_text().split().count("qrun")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the last qrun."""
        found: dict[str, str] = json.loads((self.box / "environment.json").read_text())
        return found


@pytest.fixture
def qlib(market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qlib:
    """Put the stand-ins where RD-Agent looks for Qlib's environment, and switch the bridge on."""
    box = sandbox.create(tmp_path / "box")
    for name in ("qrun", "python"):
        (box.bin / name).write_text(STAND_IN.format(python=sys.executable, box=str(tmp_path)))
        (box.bin / name).chmod(0o755)
    returns = pd.DataFrame({"return": [0.0]})
    returns.to_parquet(tmp_path / "ret.parquet")
    returns.to_pickle(tmp_path / "ret.pkl")
    (tmp_path / "qlib_res.csv").write_text(",0\nIC,0.5\n")
    monkeypatch.setenv("PATH", box.path(box.python))
    home, market = market_home
    monkeypatch.setenv("HOME", str(home))
    folder = seams.write_set(tmp_path / "set", seams.factor_frame(market))
    seams.switch_on(monkeypatch, folder)
    stand_in = Qlib(tmp_path, folder, market)
    stand_in.will()
    return stand_in


def model(qlib: Qlib, name: str = "", code: str = "") -> Any:
    """Return a model experiment; name and code are the test's own, for RD-Agent's caches are shared."""
    experiment = seams.model_experiment(f"{qlib.box.name}{name}")
    text = f"model_cls = None  # {qlib.box.name} {code or name}\n"
    experiment.sub_workspace_list[0].inject_files(**{"model.py": text})
    return experiment


def manifest_of(experiment: Any) -> dict[str, Any] | None:
    """Return the manifest of a model run, or None."""
    file = experiment.experiment_workspace.workspace_path / MANIFEST_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def test_a_training_that_went_well(qlib: Qlib) -> None:
    """qrun gets the width and the features of the union, the run its proof, the experiment its own again."""
    experiment = model(qlib)
    features = getattr(experiment, "base_features", None)
    with seams.logged() as lines:
        seams.build_runner().develop(experiment)
    assert experiment.result["IC"] == 0.5
    assert qlib.environment["num_features"] == "23"
    assert json.loads(qlib.environment["feature_names"]) == list(ALPHA22)
    assert json.loads(qlib.environment["feature_expressions"]) == list(ALPHA22.values())
    assert getattr(experiment, "base_features", None) is features
    manifest = manifest_of(experiment)
    assert manifest is not None
    assert manifest["qlib_loaded"]["columns"] == qlib.columns
    assert manifest["versions"]["qlib_side"] == {"qlib": "0.9.7"}
    assert sum("SOTA factors used: Qlib loaded 23 columns (1 mined, 22 base)" in line for line in lines) == 1


NO_WORD = {"loader": "the training left no word of its batches"}


@pytest.mark.parametrize(
    ("says", "fast", "expected"),
    [
        ('{"batches": "memory"}', "true", {"batches": "memory"}),
        ('{"loader": "torch 1.13 asks for one row at a time"}', "true", None),
        ("", "true", NO_WORD),
        ('{"batches": "disk"}', "true", NO_WORD),
        ("[]", "true", NO_WORD),
        ("{", "true", NO_WORD),
        ('{"batches": "memory"}', "false", {"loader": "SOTA_FAST_TRAINING=false"}),
    ],
)
def test_where_the_batches_come_from(
    says: str, fast: str, expected: dict[str, str] | None, qlib: Qlib, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifest and log say what the training said of its batches; switched off, the YAML is RD-Agent's."""
    monkeypatch.setenv("SOTA_FAST_TRAINING", fast)
    qlib.will(does=f"Path('sota_batches.json').write_text({says!r})" if says else "")
    experiment = model(qlib, name=f"{says}{fast}")
    with seams.logged() as lines:
        seams.build_runner().develop(experiment)
    expected, manifest = expected or json.loads(says), manifest_of(experiment)
    assert manifest is not None
    assert {name: manifest[name] for name in ("batches", "loader") if name in manifest} == expected
    source = expected.get("batches") or f"Qlib's own loader: {expected['loader']}"
    assert f"INFO: SOTA training: batches come from {source}\n" in lines
    texts = experiment.experiment_workspace.file_dict
    assert ("sota_batches.py" in texts) == (fast == "true")
    assert ("module_path: sota_batches" in texts["conf_sota_factors_model.yaml"]) == (fast == "true")


def test_a_colliding_name_is_handed_over_once(qlib: Qlib) -> None:
    """A mined MA20 takes the place of the base feature: 23 columns, 21 features in YAML and log."""
    seams.write_set(qlib.set, seams.factor_frame(qlib.market, MA20=1.0))
    with seams.logged() as lines:
        seams.build_runner().develop(model(qlib))
    assert "INFO: 叠加Alpha因子: 21个\n" in lines
    assert any("1 of the 22 features of alpha22 give way" in line and "MA20" in line for line in lines)
    assert qlib.environment["num_features"] == "23"
    assert "MA20" not in json.loads(qlib.environment["feature_names"])
    assert len(json.loads(qlib.environment["feature_names"])) == 21


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        ({"columns": sorted(ALPHA22), "num_features": 22}, "missing: ['overnight_gap']"),
        ({"num_features": 20}, "the network is 20 wide for 23 columns"),
        ({"columns": None, "num_features": 22}, "22 wide for 23 columns"),
        ({"columns_without_training_values": ["overnight_gap"]}, "no value of the 1 mined columns"),
    ],
)
def test_a_model_without_the_factors_stops_the_run(
    loaded: dict[str, Any], expected: str, qlib: Qlib, capsys: pytest.CaptureFixture[str]
) -> None:
    """If Qlib loaded anything else than was handed over, the run ends, and nothing is claimed or cached."""
    qlib.will(**loaded)
    experiment = model(qlib)
    with pytest.raises(typer.Exit):
        seams.build_runner().develop(experiment)
    assert expected in capsys.readouterr().err
    assert manifest_of(experiment) is None
    qlib.will()
    seams.build_runner().develop(model(qlib))
    assert qlib.runs == 1, "the result of the stopped run is not used"


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ([], ""),
        (["KLEN"], ""),
        (
            ["KLEN", "overnight_gap"],
            "WARNING: SOTA factors that the model saw little or nothing of: overnight_gap. ",
        ),
        (None, "INFO: SOTA factors: how much of each the model saw is unknown"),
    ],
    ids=["none", "a base feature", "a factor", "another norm"],
)
def test_factors_that_the_norm_lost(lost: list[str] | None, said: str, qlib: Qlib) -> None:
    """A factor of which Qlib's norm left nothing is named in log and manifest; another norm is unknown."""
    qlib.will(columns_without_spread=lost)
    experiment = model(qlib)
    with seams.logged() as lines:
        seams.build_runner().develop(experiment)
    found = [line for line in lines if "model saw" in line]
    assert len(found) == bool(said) and all(line.startswith(said) for line in found)
    manifest = manifest_of(experiment)
    assert manifest is not None
    assert manifest["qlib_loaded"]["columns_without_spread"] == lost


def test_an_older_record_is_no_proof(qlib: Qlib) -> None:
    """What an earlier qrun left in the workspace is not taken for what this one loaded."""
    qlib.will_leave_no_record()
    experiment = model(qlib)
    (experiment.experiment_workspace.workspace_path / LOADED_FILE).write_text("{}")
    with seams.logged() as lines:
        seams.build_runner().develop(experiment)
    assert sum("no proof that they were used" in line for line in lines) == 1
    assert "SOTA factors used" not in "".join(lines)
    manifest = manifest_of(experiment)
    assert manifest is not None
    assert manifest["qlib_loaded"] is None


@pytest.mark.parametrize("cached", ["false", "true"], ids=["plain", "ENABLE_CACHE"])
def test_a_qrun_lost_to_the_race_is_repeated_once(
    cached: str, qlib: Qlib, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One death of Qlib's logging race is repeated, even where RD-Agent caches qruns; a second is not."""
    from rdagent.core.exception import ModelEmptyError

    monkeypatch.setenv("ENABLE_CACHE", cached)
    qlib.will(races=1)
    with seams.logged() as lines:
        seams.build_runner().develop(model(qlib, "A"))
    assert qlib.runs == 2
    assert sum("it is repeated once" in line for line in lines) == 1
    qlib.will(races=9)
    with pytest.raises(ModelEmptyError, match="malformed"):
        seams.build_runner().develop(model(qlib, "B"))
    assert qlib.runs == 2


@pytest.mark.parametrize("cached", ["false", "true"], ids=["plain", "ENABLE_CACHE"])
def test_a_model_is_trained_each_time(cached: str, qlib: Qlib, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of RD-Agent's caches answers: not with the same set and model, and not in other segments."""
    from rdagent.core.conf import RD_AGENT_SETTINGS

    monkeypatch.setenv("ENABLE_CACHE", cached)
    with seams.logged() as lines:
        runner = seams.build_runner()
    said = [line for line in lines if "ENABLE_CACHE is on: RD-Agent keeps a zip" in line]
    assert [line.startswith("WARNING: SOTA factors check: ") for line in said] == [True] * (cached == "true")
    for number, end in enumerate((None, None, "2018-12-31"), 1):
        if end is not None:
            monkeypatch.setenv("QLIB_MODEL_TEST_END", end)
        experiment = model(qlib, code="one code")
        runner.develop(experiment)
        assert qlib.runs == number
        manifest = manifest_of(experiment)
        assert manifest is not None
        assert manifest["qlib_loaded"]["columns"] == qlib.columns
        stored = manifest["factor_set"]["stored"]
        file = experiment.experiment_workspace.workspace_path / FACTOR_FILE
        assert stored["placed_as"] == ("link" if file.samefile(stored["path"]) else "clone")
        assert "from_cache" not in manifest
    assert RD_AGENT_SETTINGS.cache_with_pickle is True
    seams.write_set(qlib.set, seams.factor_frame(qlib.market) * 2)
    with pytest.raises(typer.Exit):
        runner.develop(model(qlib))
    assert qlib.runs == 3, "a changed file stops the run"


def test_a_result_without_a_training_stops_the_run(qlib: Qlib, capsys: pytest.CaptureFixture[str]) -> None:
    """A develop that gives a result and has not trained stops the run, and nothing is claimed."""
    from rdagent_sota_bridge.bridge import model_runner

    runner, experiment = seams.build_runner(), model(qlib)
    with pytest.raises(typer.Exit):
        model_runner.hand_over(lambda exp: exp, runner, experiment)
    assert "RD-Agent gave a result without training a model" in capsys.readouterr().err
    assert manifest_of(experiment) is None


def test_the_runner_class_compares_sessions_itself(qlib: Qlib, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hook's check of a resume, SotaModelRunner checks in its first develop, loudly."""
    from rdagent_sota_bridge.bridge import seams as patch
    from rdagent_sota_bridge.runner import SotaModelRunner

    monkeypatch.setattr(patch, "is_applied", lambda name: False)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "no")
    plain = pickle.dumps(SotaModelRunner(None))
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "yes")
    bridged = pickle.dumps(SotaModelRunner(None))

    with seams.logged() as lines:
        resumed = pickle.loads(plain)
        resumed.develop(model(qlib, "A"))
    assert record_of(resumed) is not None
    assert sum("was trained without factors so far" in line for line in lines) == 1
    monkeypatch.setenv("USE_ALPHA_FACTORS", "no")
    with pytest.raises(typer.Exit):
        pickle.loads(bridged).develop(model(qlib, "B"))
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "no")
    with seams.logged() as lines:
        resumed = pickle.loads(bridged)
        seams.develop_up_to_qlib(resumed, seams.model_experiment())
    assert sum("goes on without it: LOAD_SOTA_FROM_WORKSPACE is off" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("does", "cloned", "races"),
    [("rm -rf", True, 1), ("rm -rf", False, 0), ("rm -rf", False, 1), ("prune", False, 1)],
)
def test_a_store_that_is_gone_while_a_model_trains(
    qlib: Qlib, monkeypatch: pytest.MonkeyPatch, does: str, cloned: bool, races: int
) -> None:
    """The training ends as it would have, a repeated one too: the workspace holds the bytes of its proof."""

    def clone(source: Any, target: Any) -> bool:
        shutil.copyfileobj(source, target)
        return True

    monkeypatch.setattr(files, "_clone", clone if cloned else lambda *_: False)
    place = qlib.box / "store"
    monkeypatch.setenv("SOTA_STORE_PATH", str(place))
    code = f"shutil.rmtree({str(place)!r}, ignore_errors=True)"
    if does == "prune":
        code = (
            f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
            "from datetime import datetime, timezone\n"
            "from rdagent_sota_bridge.factor_set.prune import prune\n"
            f"prune(Path({str(place)!r}), datetime.now(timezone.utc), dry_run=False)"
        )
    qlib.will(races=races, does=code)
    experiment, runner = model(qlib), seams.build_runner()
    (stored,) = place.glob("*.parquet")
    content = stored.read_bytes()
    with seams.logged() as lines:
        runner.develop(experiment)
    assert not [line for line in lines if line.startswith("WARNING") and "store" in line]
    assert stored.exists() == (does == "prune")
    folder = experiment.experiment_workspace.workspace_path
    assert (folder / FACTOR_FILE).read_bytes() == content
    assert [file for file in folder.iterdir() if file.name.startswith(f".{FACTOR_FILE}")] == []
    manifest = manifest_of(experiment)
    assert manifest is not None
    assert manifest["factor_set"]["stored"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    qlib.will()
    runner.develop(model(qlib, "next"))  # which has the set written anew, from its source
    assert stored.exists()
