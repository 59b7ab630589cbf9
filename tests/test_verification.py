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

from rdagent_sota_bridge import history, verification
from rdagent_sota_bridge.alpha import BaseSet
from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.qlib_config import CONFIG_FILE
from rdagent_sota_bridge.verification import Verdict
from tests import frames, logs, trained
from tests.test_history import model, root_of, skip, write_run

WIDTH = "model.kwargs.pt_model_kwargs.num_features"


def verdicts(project: Path, *experiments: Any, kind: str = "ModelRDLoop") -> list[Verdict]:
    """Return the verdicts on a run of these experiments."""
    return verification.verify(history.read_run(write_run(project, *experiments, kind=kind)))


def verdict_on(workspace: Path) -> Verdict:
    """Return the verdict on a run of one model that was trained in that workspace."""
    (found,) = verdicts(workspace.parents[2], model(workspace))
    assert found.holds == (found.state != "broken")
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
    assert len(found.evidence) == 7
    assert found.workspace == workspace


@pytest.mark.parametrize(
    "options",
    [
        {"stored": False},
        {"base": BaseSet("none", ())},
        {"mined": ("KLEN", "gap")},
        {"mined": ("gap",)},
    ],
    ids=["placed otherwise", "mined alone", "a mined column of a base name", "one"],
)
def test_other_claims_that_hold(options: dict[str, Any], tmp_path: Path) -> None:
    """Every form of a hand-off can be shown."""
    found = verdict_on(trained.write_training(root_of(tmp_path) / "w", **options))
    assert found.state == "factors", found.text


def test_a_manifest_without_a_stored_file(workspace: Path) -> None:
    """Of a manifest that knows no stored file (0.1.0) the columns are compared."""
    edit(workspace / "sota_manifest.json", lambda told: told["factor_set"].pop("stored"))
    found = verdict_on(workspace)
    assert found.state == "factors"
    assert found.evidence[0].endswith("by columns")


def test_what_was_not_read_back(workspace: Path) -> None:
    """Where the run told that it could not read back what Qlib loaded, Qlib's own record still shows it."""
    edit(workspace / "sota_manifest.json", lambda told: told.update(qlib_loaded=None))
    (workspace / "sota_loaded.json").unlink()
    found = verdict_on(workspace)
    assert (found.state, len(found.evidence)) == ("factors", 6)


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
        (_yaml("# rdagent-sota-bridge:", "#"), "it names none"),
        (_gone(CONFIG_FILE), f"{CONFIG_FILE} can't be read"),
        (_manifest("factor_set", "digest", value=OTHER), "does not name the claimed factor set"),
        (_manifest("factor_set", "digest", value="me"), "names no factor set"),
        (_manifest("factor_set", "stored", "digest", value=OTHER), "is another file"),
        (_manifest("factor_set", "columns", value=["gap", "more"]), "not among the mined ones"),
        (_manifest("mined_columns", value=["gap", "turn", "more"]), "num_features is 4 for 5 columns"),
        (_manifest("mined_columns", value=[]), "names no factor set"),
        (_manifest("mined_columns", value="gap"), "in place of a list of names"),
        (_manifest("base_set", "features", value={"KLEN": "$open"}), "not those of its digest"),
        (_manifest("base_set", "name", value="alpha22"), "does not name the claimed base set"),
        (_manifest("qlib_loaded", "columns", value=["gap"]), "other columns"),
        (_manifest("qlib_loaded", "num_features", value=5), "num_features is 5"),
        (_manifest("from_cache", value="no"), "from_cache is neither"),
        (_manifest("manifest_version", value=9), "manifest_version is 9"),
        (_written("sota_manifest.json", b"{"), "can't be read"),
        (_written("sota_manifest.json", b"[]"), "can't be read"),
        (_written("sota_manifest.json", b"[" * 200_000), "can't be read"),
        (_loaded(columns=["KLEN", "ROC60", "gap", "x"]), "other columns: turn, x"),
        (_loaded(columns_without_training_values=["gap", "turn"]), "no value of the mined columns gap, turn"),
        (_loaded(columns_without_training_values=["turn"]), "no value of the mined columns turn"),
        (
            _recorded(base=BaseSet("small", (("KLEN", "$close"), trained.BASE.features[1]))),
            "other expressions of KLEN",
        ),
        (
            _manifest("factor_set", "digest", value=trained.DIGEST[:-1]),
            "does not name the claimed factor set",
        ),
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


def test_the_parquet_of_a_set_that_was_not_placed_whole(tmp_path: Path) -> None:
    """Where the manifest tells of no stored file, other columns contradict it all the same."""
    workspace = trained.write_training(root_of(tmp_path) / "w", stored=False)
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
    assert f"names a factor set {trained.DIGEST}" in found.text
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


def test_loops_without_a_training(tmp_path: Path) -> None:
    """Skipped and unfinished loops were not trained, which breaks no claim."""
    loop = logs.new_loop("ModelRDLoop")
    skip(loop, 0, model(tmp_path / "w"), "model.py is empty")
    logs.begin(loop, 1, model(tmp_path / "v"))
    logs.dump(loop, tmp_path, 1)
    skipped, begun = verification.verify(history.read_run(tmp_path))
    assert (skipped.state, skipped.text) == ("not trained", "model.py is empty")
    assert (begun.state, begun.holds) == ("not trained", True)
    assert begun.text.startswith("not finished")


def test_a_training_without_a_verdict(workspace: Path) -> None:
    """A loop that was trained and has no verdict yet is looked at as any other."""
    loop = logs.new_loop("ModelRDLoop")
    logs.begin(loop, 0, model(workspace))
    log = workspace.parents[2] / "log" / "run"
    logs.dump(loop, log, 0)
    assert [one.state for one in verification.verify(history.read_run(log))] == ["factors"]
    _another_parquet(workspace)
    assert [one.state for one in verification.verify(history.read_run(log))] == ["broken"]


def test_a_workspace_that_is_gone(tmp_path: Path) -> None:
    """A result whose workspace is gone can't be shown to be of anything."""
    experiment = model(tmp_path / "gone")
    experiment.result = pd.Series(trained.METRICS)
    (found,) = verdicts(tmp_path, experiment)
    assert (found.state, found.contradictions != ()) == ("broken", True)


# --- the cache ---


def test_a_cached_claim_of_release_0_1_0(workspace: Path) -> None:
    """A result that an old run took from RD-Agent's cache is not verified, though the training is there."""
    trained.write_manifest(workspace.parent / "c", from_cache=True)
    experiment = model(workspace.parent / "c")
    experiment.result = pd.Series(trained.METRICS, name="0")
    first, second = verdicts(workspace.parents[2], model(workspace), experiment)
    assert (first.state, second.state, second.holds) == ("factors", "cached", False)
    assert second.digest == trained.DIGEST
    assert "answered from RD-Agent's cache by release 0.1.0: not verified" in second.text


def test_a_cached_result_of_no_factors(tmp_path: Path) -> None:
    """An answer from the cache to a run that claims nothing is no claim."""
    (root_of(tmp_path) / "w").mkdir(parents=True)
    experiment = model(root_of(tmp_path) / "w")
    experiment.result = pd.Series(trained.METRICS)
    (found,) = verdicts(tmp_path, experiment)
    assert (found.state, found.holds) == ("none", True)
    assert "cache" in found.text


# --- runs without models ---


def test_a_run_that_mines_factors(tmp_path: Path) -> None:
    """A factor run has nothing to verify, and the message says what to name."""
    experiment = logs.factor_experiment(tmp_path / "w", "a")
    with pytest.raises(SessionError, match="fin_factor, which has mined factors") as caught:
        verdicts(tmp_path, experiment, kind="FactorRDLoop")
    assert "fin_model" not in caught.value.fact


def test_fin_quant_before_its_first_model(tmp_path: Path) -> None:
    """A run of fin_quant without a model yet has nothing to verify either."""
    with pytest.raises(SessionError, match="fin_quant, which has mined factors"):
        verdicts(tmp_path, logs.factor_experiment(tmp_path / "w", "a"), kind="QuantRDLoop")


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
