"""Whether a model has the factors that its manifest claims; every part of a claim is contradicted once."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
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

WIDTH = "model.kwargs.pt_model_kwargs.num_features"


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


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_claim_that_holds(workspace: Path) -> None:
    """A model that was trained on the set is said to have it, with all that was looked at."""
    found = verdict_on(workspace)
    assert (found.state, found.digest, found.loop, found.name) == ("factors", trained.DIGEST, 0, "SmallMLP")
    assert found.text == "trained on factor set sha256:555555555555 (2 mined + 2 base = 4 columns)"
    assert len(found.evidence) == 8
    assert found.workspace == workspace


def _another_parquet(workspace: Path) -> None:
    frames.write(frames.nested(frames.factor_frame(trained.MINED, seed=8)), workspace)


def _other_columns(workspace: Path) -> None:
    frames.write(frames.nested(frames.factor_frame(("gap", "other"))), workspace)


def _param(name: str, text: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        (file,) = workspace.glob(f"mlruns/*/*/params/{name}")
        file.write_text(text)

    return change


def _manifest(*path: str, value: Any) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        def put(content: Any) -> None:
            for step in path[:-1]:
                content = content[step]
            content[path[-1]] = value

        edit(workspace / "sota_manifest.json", put)

    return change


def _loaded(**values: Any) -> Callable[[Path], None]:
    return lambda workspace: edit(workspace / "sota_loaded.json", lambda content: content.update(values))


def _recorded(**options: Any) -> Callable[[Path], None]:
    """Let Qlib have recorded another training."""

    def change(workspace: Path) -> None:
        shutil.rmtree(workspace / "mlruns")
        config_file = options.pop("config_file", CONFIG_FILE)
        trained.write_record(workspace, trained.config(**options), config_file=config_file)

    return change


def _yaml(old: str, new: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        file = workspace / CONFIG_FILE
        file.write_text(file.read_text().replace(old, new))

    return change


def _not_read_back(workspace: Path) -> None:
    edit(workspace / "sota_manifest.json", lambda content: content.update(qlib_loaded=None))
    (workspace / "sota_loaded.json").unlink()


def _gone(pattern: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        for file in list(workspace.glob(pattern)):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    return change


def _written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda workspace: (workspace / name).write_bytes(content) and None


OTHER = "sha256:" + "6" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_another_parquet, "is another file"),
        (_other_columns, "has the columns gap, other, not gap, turn"),
        (_gone("combined_factors_df.parquet"), "no combined_factors_df.parquet"),
        (_written("combined_factors_df.parquet", b"PAR1"), "can't be read"),
        (_param(WIDTH, "24"), "input width of 24, not 4"),
        (_param(WIDTH, "24"), "two input widths"),
        (_param(WIDTH, ""), "input width of None"),
        (
            _param("cmd-sys.argv", "run.py conf_baseline_factors_model.yaml"),
            "conf_baseline_factors_model.yaml, not",
        ),
        (_param("cmd-sys.argv", ""), "did not record"),
        (_gone("mlruns"), "no finished training"),
        (_gone("mlruns/*/*/meta.yaml"), "no finished training"),
        (_recorded(factor_file=False), "read no combined_factors_df.parquet"),
        (_recorded(base=BaseSet("other", (("MA5", "$close"), ("MA9", "$open")))), "was given MA5, MA9"),
        (_recorded(base=BaseSet("none", ())), "was given none"),
        (_recorded(width=20), "input width of 20, not 4"),
        (_recorded(factor_file=False, width=2, config_file="conf_baseline_factors_model.yaml"), "width of 2"),
        (
            _written("mlruns/202467401526266377/" + trained.RECORDER + "/artifacts/config", b"x"),
            "can't be read",
        ),
        (_yaml(trained.DIGEST, OTHER), "does not name the claimed factor set"),
        (_yaml("base set small", "base set other"), "does not name the claimed base set"),
        (_yaml("factor set", "set"), "does not name the claimed factor set"),
        (_gone(CONFIG_FILE), "does not name the claimed factor set"),
        (_manifest("factor_set", "digest", value=OTHER), "does not name the claimed factor set"),
        (_manifest("factor_set", "digest", value="me"), "factor_set.digest String should match"),
        (_manifest("factor_set", "stored", "digest", value=OTHER), "is another file"),
        (_manifest("factor_set", "columns", value=["gap", "more"]), "not among the mined ones"),
        (_manifest("mined_columns", value=["gap", "turn", "more"]), "num_features is 4 for 5 columns"),
        (_manifest("mined_columns", value=[]), "mined_columns List should have at least 1 item"),
        (_manifest("mined_columns", value="gap"), "mined_columns Input should be a valid list"),
        (_manifest("base_set", "features", value={"KLEN": "$open"}), "not those of its digest"),
        (_manifest("base_set", "name", value="alpha22"), "does not name the claimed base set"),
        (_manifest("qlib_loaded", "columns", value=["gap"]), "other columns"),
        (_manifest("qlib_loaded", "num_features", value=5), "num_features is 5"),
        (_manifest("from_cache", value="no"), "from_cache Input should be a valid boolean"),
        (_manifest("manifest_version", value=9), "manifest_version is 9"),
        (_written("sota_manifest.json", b"{"), "can't be read"),
        (_written("sota_manifest.json", b"[]"), "can't be read"),
        (_written("sota_manifest.json", b"[" * 200_000), "can't be read"),
        (_loaded(columns=["KLEN", "ROC60", "gap", "x"]), "other columns: turn, x"),
        (_loaded(columns_without_training_values=["gap", "turn"]), "no value of the mined columns gap, turn"),
        (_loaded(columns_without_training_values=["turn"]), "no value of the mined columns turn"),
        (_manifest("factor_set", "digest", value=trained.DIGEST[:-1]), "factor_set.digest String"),
        (_loaded(recorder="another"), "another training"),
        (_gone("sota_loaded.json"), "is gone"),
        (_written("sota_loaded.json", b"{"), "sota_loaded.json can't be read"),
        (_written("sota_loaded.json", b"{}"), "sota_loaded.json can't be read"),
        (_written("sota_loaded.json", b"[" * 200_000), "sota_loaded.json can't be read"),
    ],
)
def test_claims_that_do_not_hold(change: Callable[[Path], None], told: str, workspace: Path) -> None:
    """Whatever was taken away or changed, the claim is broken, and what contradicts it is named."""
    change(workspace)
    found = verdict_on(workspace)
    assert found.state == "broken"
    assert told in found.text
    assert any(told in contradiction for contradiction in found.contradictions)


@pytest.mark.parametrize(
    ("options", "change", "evidence"),
    [
        ({}, lambda _: None, 8),
        ({"stored": False}, lambda _: None, 8),
        ({"base": BaseSet("none", ())}, lambda _: None, 8),
        ({"mined": ("KLEN", "gap")}, lambda _: None, 8),
        ({"mined": ("gap",)}, lambda _: None, 8),
        ({}, lambda at: edit(at / "sota_manifest.json", lambda one: one["factor_set"].pop("stored")), 8),
        ({}, lambda at: edit(at / "sota_manifest.json", lambda one: one.update(from_cache=False)), 8),
        ({}, _not_read_back, 7),
    ],
    ids=[
        "placed",
        "placed otherwise",
        "mined alone",
        "a mined column of a base name",
        "one",
        "0.1.0 without a stored file",
        "0.1.0 without its cache",
        "not read back",
    ],
)
def test_claims_that_hold(
    options: dict[str, Any], change: Callable[[Path], None], evidence: int, tmp_path: Path
) -> None:
    """Every form of a hand-off and of its manifest can be shown; other columns contradict each."""
    workspace = trained.write_training(root_of(tmp_path) / "w", **options)
    change(workspace)
    found = verdict_on(workspace)
    assert (found.state, len(found.evidence)) == ("factors", evidence), found.text
    _other_columns(workspace)
    assert verdict_on(workspace).state == "broken"


def test_a_model_without_factors(tmp_path: Path) -> None:
    """A model that claims nothing is said to have been trained without, at its width."""
    found = verdict_on(trained.write_baseline(root_of(tmp_path) / "w"))
    assert (found.state, found.digest) == ("none", "")
    assert found.text == "trained without factors, and claims none (input width 20)"


def test_a_manifest_that_is_gone(workspace: Path) -> None:
    """A training on a handed-over set of which the manifest was removed is not one that claims nothing."""
    (workspace / "sota_manifest.json").unlink()
    found = verdict_on(workspace)
    assert found.state == "broken"
    assert "names a set that was handed over" in found.text
    assert "no sota_manifest.json" in found.text


def test_a_factor_file_of_the_runs_own(tmp_path: Path) -> None:
    """What fin_quant merges by itself is told, and is no claim."""
    workspace = trained.write_training(root_of(tmp_path) / "w")
    (workspace / "sota_manifest.json").unlink()
    (workspace / CONFIG_FILE).write_text("qlib_init:\n")
    (_, found) = verdicts(tmp_path, model(tmp_path / "gone"), model(workspace), kind="QuantRDLoop")
    assert found.state == "none"
    assert "that this run itself made (input width 4)" in found.text


def test_one_loop_without_factors_among_others(workspace: Path) -> None:
    """Where other loops of the run claim factors, a loop without is told plainly, and is no failure."""
    baseline = trained.write_baseline(workspace.parent / "b")
    has, has_not = verdicts(workspace.parents[2], model(workspace), model(baseline))
    assert (has.state, has_not.state, has_not.holds) == ("factors", "none", True)
    assert "1 other loop(s) of this run claim factors, and this one has none" in has_not.text


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
    _another_parquet(workspace)
    assert verify.verify(history.read_run(log))[2].state == "broken"


@pytest.mark.parametrize(("is_there", "state"), [(False, "broken"), (True, "none")])
def test_a_result_without_a_training(is_there: bool, state: str, tmp_path: Path) -> None:
    """A result whose workspace is gone is not shown; one of the cache that claims nothing is no claim."""
    if is_there:
        (root_of(tmp_path) / "w").mkdir(parents=True)
    experiment = model(root_of(tmp_path) / "w")
    experiment.result = pd.Series(trained.METRICS)
    (found,) = verdicts(tmp_path, experiment)
    assert (found.state, found.holds) == (state, is_there)
    assert ("cache" in found.text) == is_there


def test_a_loop_that_release_0_1_0_let_the_cache_answer(workspace: Path) -> None:
    """A manifest of before with `from_cache: true` is read, and its claim is said to be not verified."""
    _manifest("from_cache", value=True)(workspace)
    found = verdict_on(workspace)
    assert (found.state, found.digest, found.holds) == ("not verified", trained.DIGEST, False)
    assert found.text == "answered from RD-Agent's cache by release 0.1.0: not verified"


@pytest.mark.parametrize(("kind", "command"), [("FactorRDLoop", "fin_factor"), ("QuantRDLoop", "fin_quant")])
def test_a_run_that_mined_factors_alone(kind: str, command: str, tmp_path: Path) -> None:
    """A run without a model yet has nothing to verify, and the message says what to name."""
    with pytest.raises(SessionError, match=f"{command}, which has mined factors"):
        verdicts(tmp_path, logs.factor_experiment(tmp_path / "w", "a"), kind=kind)


def test_factor_loops_are_left_out(workspace: Path) -> None:
    """Of a run of fin_quant the model loops are verified."""
    factor = logs.factor_experiment(workspace.parent / "f", "a")
    (found,) = verdicts(workspace.parents[2], factor, model(workspace), kind="QuantRDLoop")
    assert (found.loop, found.state) == (1, "factors")


def test_a_hostile_record_runs_nothing(workspace: Path, tmp_path: Path) -> None:
    """What a workspace's pickles ask for is not run."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was run",)

    for file in workspace.glob("mlruns/*/*/artifacts/*"):
        file.write_bytes(pickle.dumps(Hostile()))
    assert verdict_on(workspace).state == "broken"
    assert not (tmp_path / "was run").exists()
