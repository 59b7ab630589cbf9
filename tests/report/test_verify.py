"""Whether a model has the factors that its manifest claims; every part of a claim is contradicted once."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from rdagent_sota_bridge.report import history, verify
from rdagent_sota_bridge.report.verify import Verification
from tests import frames, logs, trained
from tests.report.test_history import model, root_of, skip, write_run

MANIFEST, LOADED, FACTORS = "sota_manifest.json", "sota_loaded.json", "combined_factors_df.parquet"
WIDTH = "mlruns/*/*/params/model.kwargs.pt_model_kwargs.num_features"
STARTED = "mlruns/*/*/params/cmd-sys.argv"
BASELINE = "conf_baseline_factors_model.yaml"
OTHER = "sha256:" + "6" * 64


def verdicts(project: Path, *experiments: Any, kind: str = "ModelRDLoop") -> list[Verification]:
    """Return the verdicts on a run of these experiments."""
    return verify.verify(history.read_run(write_run(project, *experiments, kind=kind)))


def verdict_on(workspace: Path) -> Verification:
    """Return the verdict on a run of one model that was trained in that workspace."""
    (found,) = verdicts(workspace.parents[2], model(workspace))
    assert found.holds == (found.state not in ("broken", "not verified"))
    assert bool(found.contradictions) == (not found.holds)
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Return the workspace of a model that was trained on the factors."""
    return trained.write_training(root_of(tmp_path) / "w")


def tamper(workspace: Path, pattern: str, change: Any) -> None:
    """Change files of a workspace.

    Args:
        workspace: The workspace.
        pattern: The files.
        change: None removes them; bytes are their new content; a pair replaces the first text by the second;
            a dictionary is put over their JSON; a frame is written in their place.
    """
    for file in list(workspace.glob(pattern)):
        if change is None:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        elif isinstance(change, bytes):
            file.write_bytes(change)
        elif isinstance(change, tuple):
            file.write_text(file.read_text().replace(*change))
        elif isinstance(change, dict):
            file.write_text(json.dumps(put_over(json.loads(file.read_text()), change)))
        else:
            frames.write(frames.nested(change), workspace)


def put_over(old: Any, new: Any) -> Any:
    """Return nested dictionaries with the values of others in place of theirs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {name: put_over(old.get(name), value) for name, value in new.items()}


@pytest.mark.parametrize(
    ("pattern", "change", "expected"),
    [
        (FACTORS, frames.factor_frame(trained.MINED, seed=8), "is another file"),
        (FACTORS, frames.factor_frame(("gap", "other")), "has the columns gap, other, not gap, turn"),
        (FACTORS, None, "no combined_factors_df.parquet"),
        (FACTORS, b"PAR1", "can't be read"),
        (WIDTH, b"24", "input width of 24, not 4"),
        (WIDTH, b"24", "two input widths"),
        (WIDTH, b"", "input width of None"),
        (STARTED, b"run.py conf_baseline_factors_model.yaml", "conf_baseline_factors_model.yaml, not"),
        (STARTED, b"", "did not record"),
        ("mlruns", None, "no finished training"),
        ("mlruns/*/*/meta.yaml", None, "no finished training"),
        ("mlruns/*/*/artifacts/config", b"x", "can't be read"),
        (CONFIG_FILE, (trained.DIGEST, OTHER), "does not name the claimed factor set"),
        (CONFIG_FILE, ("base set small", "base set other"), "does not name the claimed base set"),
        (CONFIG_FILE, ("factor set", "set"), "does not name the claimed factor set"),
        (CONFIG_FILE, None, "does not name the claimed factor set"),
        (MANIFEST, {"factor_set": {"digest": OTHER}}, "does not name the claimed factor set"),
        (MANIFEST, {"factor_set": {"digest": "me"}}, "factor_set.digest: String should match"),
        (MANIFEST, {"factor_set": {"digest": trained.DIGEST[:-1]}}, "factor_set.digest: String should match"),
        (MANIFEST, {"factor_set": {"stored": {"digest": OTHER}}}, "is another file"),
        (MANIFEST, ('"digest": "sha256', '"x": "sha256'), "Field required"),
        (MANIFEST, {"factor_set": {"stored": {"digest": None}}}, "its stored file has no digest"),
        (MANIFEST, {"factor_set": {"columns": ["gap", "more"]}}, "not among the mined ones"),
        (MANIFEST, {"mined_columns": ["gap", "turn", "more"]}, "num_features is 4 for 5 columns"),
        (MANIFEST, {"mined_columns": []}, "its factor set has no digest or no columns"),
        (MANIFEST, {"mined_columns": "gap"}, "mined_columns: Input should be a valid list"),
        (MANIFEST, {"base_set": {"features": {"KLEN": "$open"}}}, "not those of its digest"),
        (MANIFEST, {"base_set": {"name": "alpha22"}}, "does not name the claimed base set"),
        (MANIFEST, {"qlib_loaded": {"columns": ["gap"]}}, "other columns"),
        (MANIFEST, {"qlib_loaded": {"columns": None}}, "what Qlib loaded has no columns"),
        (MANIFEST, {"qlib_loaded": {"num_features": 5}}, "num_features is 5"),
        (
            MANIFEST,
            {"training": {"test": ["2017-01-01 00:00:00", None]}},
            "not ['2017-01-01 00:00:00', None]",
        ),
        (MANIFEST, {"training": {"valid": ["2015-01-01 00:00:00"]}}, "Qlib recorded valid ['2015-01-01"),
        (MANIFEST, {"training": {"market": "csi500"}}, "Qlib recorded market csi300, not csi500"),
        (MANIFEST, {"training": {"provider_uri": "/data"}}, "cn_data, not /data"),
        (MANIFEST, {"training": {"label": "$close"}}, "- 1, not $close"),
        (MANIFEST, {"training": []}, "training: Input should be a valid dictionary"),
        (MANIFEST, {"from_cache": "no"}, "from_cache: Input should be a valid boolean"),
        (MANIFEST, {"manifest_version": 9}, "manifest_version is 9"),
        (MANIFEST, b"{", "can't be read"),
        (MANIFEST, b"[]", "can't be read"),
        pytest.param(MANIFEST, b"[" * 200_000, "can't be read", id="a manifest nested too deep"),
        (LOADED, {"columns": ["KLEN", "ROC60", "gap", "x"]}, "other columns: turn, x"),
        (
            LOADED,
            {"columns_without_training_values": ["gap", "turn"]},
            "no value of the mined columns gap, turn",
        ),
        (LOADED, {"columns_without_training_values": ["turn"]}, "no value of the mined columns turn"),
        (LOADED, {"recorder": "another"}, "another training"),
        (LOADED, None, "is gone"),
        (LOADED, b"{", "sota_loaded.json can't be read"),
        (LOADED, b"{}", "sota_loaded.json can't be read"),
        pytest.param(LOADED, b"[" * 200_000, "sota_loaded.json can't be read", id="loaded nested too deep"),
    ],
)
def test_claims_that_do_not_hold(pattern: str, change: Any, expected: str, workspace: Path) -> None:
    """Whatever was taken away or changed, the claim is broken, and what contradicts it is named."""
    tamper(workspace, pattern, change)
    assert_broken(verdict_on(workspace), expected)


def assert_broken(found: Verification, expected: str) -> None:
    """Check that a claim is broken, and that its contradictions say why."""
    assert found.state == "broken"
    assert expected in found.text
    assert any(expected in contradiction for contradiction in found.contradictions)


@pytest.mark.parametrize(
    ("options", "config_file", "expected"),
    [
        ({"factor_file": False}, CONFIG_FILE, "read no combined_factors_df.parquet"),
        ({"base": BaseSet("other", (("MA5", "$close"), ("MA9", "$open")))}, CONFIG_FILE, "given MA5, MA9"),
        ({"base": BaseSet("none", ())}, CONFIG_FILE, "was given none"),
        ({"width": 20}, CONFIG_FILE, "input width of 20, not 4"),
        ({"factor_file": False, "width": 2}, BASELINE, "width of 2"),
        ({"test": ("2017-01-01", "2019-12-31")}, CONFIG_FILE, "recorded test ['2017-01-01 00:00:00', '2019-"),
    ],
)
def test_another_training(options: dict[str, Any], config_file: str, expected: str, workspace: Path) -> None:
    """Where Qlib recorded another training than the one that is claimed, the claim is broken."""
    tamper(workspace, "mlruns", None)
    trained.write_record(workspace, trained.config(**options), config_file=config_file)
    assert_broken(verdict_on(workspace), expected)


@pytest.mark.parametrize(
    ("options", "change", "evidence"),
    [
        ({}, {}, 9),
        ({"stored": False}, {}, 9),
        ({"base": BaseSet("none", ())}, {}, 9),
        ({"mined": ("KLEN", "gap")}, {}, 9),
        ({"mined": ("gap",)}, {}, 9),
        ({}, ('"stored"', '"not yet"'), 9),
        ({}, {"from_cache": False}, 9),
        ({}, {"qlib_loaded": None}, 8),
        ({}, ('"training"', '"not yet"'), 8),
    ],
    ids=[
        "placed",
        "placed otherwise",
        "mined alone",
        "a mined column of a base name",
        "one",
        "0.1.0 without a stored file",
        "0.1.0 not from its cache",
        "not read back",
        "0.1.0 without segments",
    ],
)
def test_claims_that_hold(options: dict[str, Any], change: Any, evidence: int, tmp_path: Path) -> None:
    """Every form of a hand-off and of its manifest can be shown; other columns contradict each."""
    workspace = trained.write_training(root_of(tmp_path) / "w", **options)
    tamper(workspace, MANIFEST, change)
    if change == {"qlib_loaded": None}:
        tamper(workspace, LOADED, None)
    found = verdict_on(workspace)
    assert (found.state, len(found.evidence)) == ("factors", evidence), found.text
    assert (found.digest, found.loop, found.name) == (trained.DIGEST, 0, "SmallMLP")
    assert found.text.startswith("trained on factor set sha256:5555555555 (")
    tamper(workspace, FACTORS, frames.factor_frame(("gap", "other")))
    assert verdict_on(workspace).state == "broken"


@pytest.mark.parametrize(
    ("case", "state", "text"),
    [
        ("baseline", "none", "trained without factors, and claims none (input width 20)"),
        ("manifest gone", "broken", "names a set that was handed over, and no sota_manifest.json"),
        ("fin_quant's own", "none", "of this run itself (input width 4)"),
        ("cached", "none", "RD-Agent answered from its cache"),
        ("workspace gone", "broken", "its workspace is gone"),
        ("cached by 0.1.0", "not verified", "answered from RD-Agent's cache by release 0.1.0: not verified"),
    ],
)
def test_without_a_claim_to_look_at(case: str, state: str, text: str, tmp_path: Path) -> None:
    """Without a manifest Qlib's record, the YAML and the files that are left decide."""
    space = root_of(tmp_path) / "w"
    if case == "baseline":
        trained.write_baseline(space)
    elif case == "cached":
        space.mkdir(parents=True)
    elif case != "workspace gone":
        trained.write_training(space)
        tamper(space, MANIFEST, {"from_cache": True} if case == "cached by 0.1.0" else None)
    if case == "fin_quant's own":
        tamper(space, CONFIG_FILE, b"qlib_init:")
    experiment = model(space)
    experiment.result = pd.Series(trained.METRICS)
    (found,) = verdicts(tmp_path, experiment)
    assert (found.state, found.holds) == (state, state == "none")
    assert found.digest == (trained.DIGEST if state == "not verified" else "")
    assert text in found.text


def test_one_loop_without_factors_among_others(workspace: Path) -> None:
    """Of fin_quant's loops the models are verified; one without factors is said to be, and is no failure."""
    baseline = trained.write_baseline(workspace.parent / "b")
    experiments = logs.factor_experiment(workspace.parent / "f", "a"), model(workspace), model(baseline)
    has, has_not = verdicts(workspace.parents[2], *experiments, kind="QuantRDLoop")
    assert (has.loop, has.state, has_not.state, has_not.holds) == (1, "factors", "none", True)
    assert "factors are claimed by 1 other loop of this run, and this one has none" in has_not.text


def test_what_was_trained_again_with_a_seed(workspace: Path) -> None:
    """It is held to its claim like a loop's own training, and is no loop; without columns is second."""
    log = write_run(workspace.parents[2], model(workspace))
    for name, seed, changes in (("b1", 1, {"mined_columns": []}), ("a2", 2, {}), ("a1", 1, {})):
        folder = shutil.copytree(workspace, workspace.parent / name)
        retrained = {"of": "w", "recorder": trained.RECORDER, "change": {"seed": seed}}
        tamper(folder, MANIFEST, {"retrained": retrained, **changes})
    tamper(workspace.parent / "a2", FACTORS, None)
    run = history.read_run(log)
    own, first, base, second = [*verify.verify(run), *verify.trained_again(run)]
    assert base.workspace == workspace.parent / "b1"
    assert first.name == f"{own.name}, trained again with seed 1"
    assert (first.state, second.state, second.loop) == ("factors", "broken", own.loop)
    assert second.contradictions == (f"no {FACTORS} is in its workspace",)


def test_loops_without_a_training_or_a_verdict(workspace: Path) -> None:
    """Skipped and unfinished loops break no claim; one that was trained is looked at before its verdict."""
    loop = logs.new_loop("ModelRDLoop")
    log = workspace.parents[2] / "log" / "run"
    skip(loop, 0, model(workspace.parent / "x"), "model.py is empty")
    logs.begin(loop, 1, model(workspace.parent / "v"))
    logs.begin(loop, 2, model(workspace))
    logs.dump(loop, log, 2)
    skipped, begun, trained_one = verify.verify(history.read_run(log))
    assert (skipped.state, skipped.text) == ("not trained", "model.py is empty")
    assert (begun.state, begun.holds) == ("not trained", True)
    assert begun.text.startswith("not finished")
    assert trained_one.state == "factors"
    tamper(workspace, FACTORS, frames.factor_frame(trained.MINED, seed=8))
    assert verify.verify(history.read_run(log))[2].state == "broken"


@pytest.mark.parametrize(("kind", "command"), [("FactorRDLoop", "fin_factor"), ("QuantRDLoop", "fin_quant")])
def test_a_run_that_mined_factors_alone(kind: str, command: str, tmp_path: Path) -> None:
    """A run without a model yet has nothing to verify, and the message says what to name."""
    with pytest.raises(SessionError, match=f"{command}, which has mined factors"):
        verdicts(tmp_path, logs.factor_experiment(tmp_path / "w", "a"), kind=kind)


def test_a_hostile_record_runs_nothing(workspace: Path, tmp_path: Path) -> None:
    """What a workspace's pickles ask for is not run."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was run",)

    for file in workspace.glob("mlruns/*/*/artifacts/*"):
        file.write_bytes(pickle.dumps(Hostile()))
    assert verdict_on(workspace).state == "broken"
    assert not (tmp_path / "was run").exists()
