"""RD-Agent and Qlib for real: the command that users know, on a market where only the factors predict.

On that market a model without the planted factor scores an IC near 0, and one that gets it scores near 0.79.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.demo.market import write_source_data
from examples.demo.sandbox import Sandbox
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.names import LATEST_LOG
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22
from tests import runs, seams
from tests.engine import Engine

pytestmark = pytest.mark.e2e

USED = 0.6
"""The least IC of a model that was trained on the planted factor; measured 0.78 to 0.80."""

UNUSED = 0.2
"""The greatest IC of a model that was not; measured -0.02 to 0.03."""

ON = {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": "set"}


ACCEPTED = (
    "SOTA model verdict: the LLM was shown the model prompt, and its answer counts in either form "
    '(SOTA_MODEL_VERDICT=mended): accepted, for it says "Decision": true'
)
"""What a run logs of a model that the scripted LLM accepts, in the form that it is shown and in no other."""


def best_in(run: runs.Run) -> dict[str, str]:
    """Return what the last prompts of a run say of the best model so far, by their kinds."""
    places = {
        "model_hypothesis": ("Here is the SOTA trail's hypothesis", "To assist you"),
        "model_experiment": ("The SOTA hypothesis and the corresponding feedback", "Please generate"),
        "model_feedback": ("# SOTA Round Information", "# Current Round Information"),
    }
    prompts = {request.kind: request.user for request in run.requests}
    return {
        kind: prompts[kind].partition(begin)[2].partition(end)[0] for kind, (begin, end) in places.items()
    }


def die_once(box: Sandbox) -> None:
    """Let the first qrun of a sandbox die as Qlib's logging race does, and all later ones be real."""
    shim = box.bin / "qrun"
    real = box.bin / "real_qrun"
    shim.rename(real)
    mark = box.folder / "died"
    shim.write_text(
        "#!/bin/sh\n"
        f"if [ ! -e {shlex.quote(str(mark))} ]; then\n"
        f"  touch {shlex.quote(str(mark))}\n"
        "  echo \"mlflow.exceptions.MlflowException: Metric 'Rank IC' is malformed; No data found.\" >&2\n"
        "  exit 1\n"
        "fi\n"
        f'exec {shlex.quote(str(real))} "$@"\n'
    )
    shim.chmod(0o755)


def sessions(folder: Path) -> dict[str, tuple[str, int]]:
    """Return digest and time of every file of a log folder, but its text log, which has all that is said."""
    return {
        str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and file != folder / LATEST_LOG
    }


def placed(model: runs.Model) -> Path:
    """Return the stored file that a model's workspace has a link to (or a clone, where there are clones)."""
    stored = manifest_of(model)["factor_set"]["stored"]
    file, path = model.workspace / "combined_factors_df.parquet", Path(stored["path"])
    assert stored["placed_as"] == ("link" if file.samefile(path) else "clone")
    assert stored["digest"] == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    return path


def manifest_of(model: runs.Model) -> dict[str, Any]:
    """Return the manifest of a model that was trained with the factors, on batches from memory."""
    assert (model.manifest or {}).get("batches") == "memory"
    return model.manifest


def one_model(run: runs.Run, width: int, *, used: bool = True) -> runs.Model:
    """Return the one model of a run: its width, and whether it was trained on the planted factor, fit."""
    assert run.status == 0, run.output[-3000:]
    (model,) = run.trained
    assert model.width == width
    assert model.metrics["IC"] > USED if used else abs(model.metrics["IC"]) < UNUSED
    return model


def test_results_follow_the_set(tmp_path: Path) -> None:
    """The network gets the set's columns and values; no result of another set, or of none, is ever answered.

    One project, five runs: with the set (its first qrun dies of the logging race), with the same set again,
    switched off, resumed with a changed file, and with the changed file.
    """
    box, market = runs.box_with_market(tmp_path / "a box")
    frame = seams.factor_frame(market, RESI5=1.0, 因子=0.5e-15)
    workspace = seams.write_set(box.project / "set", frame)
    digest = "sha256:" + hashlib.sha256((workspace / "combined_factors_df.parquet").read_bytes()).hexdigest()
    (workspace / "qlib_res.csv").write_text(",0\nIC,0.0521\n")
    die_once(box)

    first = runs.rdagent(box, "fin_model", "--loop_n", "1", **ON)
    model = one_model(first, 24)
    manifest = manifest_of(model)
    assert manifest["qlib_loaded"]["columns"] == sorted({*ALPHA22, *frame.columns})
    assert manifest["qlib_loaded"]["columns_without_training_values"] == []
    assert manifest["qlib_loaded"]["columns_without_spread"] == ["因子"]
    assert manifest["qlib_loaded"]["num_features"] == 24
    assert manifest["base_set"]["replaced_by_mined"] == ["RESI5"]
    assert manifest["factor_set"]["digest"] == digest
    assert manifest["factor_set"]["metrics"] == {"IC": 0.0521}
    assert placed(model) == box.project / "git_ignore_folder" / "sota_store" / f"{digest[7:]}.sota.parquet"
    written = pd.read_parquet(model.workspace / "combined_factors_df.parquet")
    pd.testing.assert_frame_equal(written["feature"], frame.sort_index())
    for line in (
        f"SOTA factors loaded from workspace: {workspace}/combined_factors_df.parquet",
        f"SOTA factors shape: ({len(frame)}, 3)",
        "SOTA factor experiment added to based_experiments",
        "SOTA factor processing ...",
        "叠加Alpha因子: 21个",
        "Metric 'Rank IC' is malformed); it is repeated once",
        "SOTA factors used: Qlib loaded 24 columns (3 mined, 21 base), num_features 24",
        "SOTA factors check: factor 因子: spreads too little: the median absolute deviation of its training",
        "SOTA factors that the model saw little or nothing of: 因子. ",
    ):
        assert line in first.text_log, line
        assert line in first.output, line
    assert "\x1b" not in first.text_log

    again = runs.rdagent(box, "fin_model", "--loop_n", "1", **ON)
    assert manifest_of(one_model(again, 24))["factor_set"]["digest"] == digest
    assert first.text_log.splitlines()[0] not in again.text_log, "latest.log is started anew by each run"

    off = runs.rdagent(
        box, "fin_model", "--loop_n", "1", LOAD_SOTA_FROM_WORKSPACE="false", SOTA_WORKSPACE_PATH="set"
    )
    one_model(off, 20, used=False)
    assert off.manifests == []
    assert "SOTA factors" not in off.output.replace("SOTA factors in", "")

    # Not a copy of the other noise: the later of two factors that say the same would be dropped.
    seams.write_set(workspace, frame.assign(overnight_gap=frame["因子"].to_numpy()[::-1]))
    assert first.log_folder is not None
    before = sessions(first.log_folder)
    session = str(first.log_folder / "__session__")
    resumed = runs.rdagent(box, "fin_model", "--path", session, "--loop_n", "2", **ON)
    assert resumed.status == 1
    assert resumed.requests == []
    assert "The factor set is not the one that this run began with" in resumed.output
    assert digest in resumed.output
    assert "Traceback" not in resumed.output
    assert sessions(first.log_folder) == before

    changed = runs.rdagent(box, "fin_model", "--loop_n", "1", **ON)
    assert manifest_of(one_model(changed, 24, used=False))["factor_set"]["digest"] != digest


def span(model: runs.Model) -> tuple[int, int]:
    """Return begin and end of a model's back-test, as mlflow has them, in milliseconds."""
    text = (runs.finished_run(model.workspace) / "meta.yaml").read_text(encoding="utf-8")
    fields = dict(line.partition(": ")[::2] for line in text.splitlines())
    return int(fields["start_time"]), int(fields["end_time"])


def test_loops_side_by_side_on_mined_factors_alone(tmp_path: Path) -> None:
    """Two loops in processes of their own, at once, each get the one stored set, and prove it.

    Without the base set, so that recurrent models are as wide as the set; from unsorted plain columns, with
    dates as text and no word of pandas.
    """
    box, market = runs.box_with_market(tmp_path / "box")
    frame = seams.factor_frame(market, noise=1.0)
    columns = frame.sample(frac=1.0, random_state=1).reset_index()
    columns["datetime"] = columns["datetime"].dt.strftime("%Y-%m-%d")
    (box.project / "set").mkdir()
    table = pa.Table.from_pandas(columns, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, box.project / "set" / "combined_factors_df.parquet")
    variables = {
        "SOTA_WORKSPACE_PATH": "set/combined_factors_df.parquet",
        "LOAD_SOTA_FROM_WORKSPACE": "Yes",
        "USE_ALPHA_FACTORS": "off",
        "STEP_SEMAPHORE": "2",
    }
    run = runs.rdagent(box, "fin_model", "--loop-n", "2", script=runs.GRU, **variables)
    assert run.status == 0, run.output[-3000:]
    models = run.trained
    assert len(models) == len(run.manifests) == 2
    (begin, end), (other_begin, other_end) = map(span, models)
    assert max(begin, other_begin) < min(end, other_end), "they did not run side by side"
    names = set()
    for model in models:
        assert model.metrics["IC"] > USED
        assert model.width == 2
        manifest = manifest_of(model)
        names.add(manifest["model"]["name"])
        assert manifest["qlib_loaded"]["columns"] == ["noise", "overnight_gap"]
        assert manifest["factor_set"]["digest"] == run.manifests[0]["factor_set"]["digest"]
    assert names == {"SmallGRU", "SmallGRU2"}
    (stored,) = {placed(model) for model in models}
    (kept,), troubles = store.entries(stored.parent)
    assert (troubles, store.trouble_of(kept)) == ([], "")
    assert [file for file in stored.parent.iterdir() if file.suffix == ".tmp"] == []

    # What a run says once, and what each loop says, from its own process into the one text log.
    text = run.text_log
    for line, times in (
        ("SOTA factors loaded from workspace", 1),
        ("SOTA factors layout: datetime and instrument are columns, dates are text", 1),
        ("one copy of the set is written into", 1),
        ("SOTA factor experiment added to based_experiments", 2),
        ("SOTA factors placed in the model's workspace", 2),
        ("SOTA factors used: Qlib loaded 2 columns (2 mined, 0 base), num_features 2", 2),
        (ACCEPTED, 2),
    ):
        assert text.count(line) == times, line


def test_the_second_loop_builds_on_the_first_model(tmp_path: Path) -> None:
    """An accepted model is the best so far in every prompt of the next loop; log and report have the verdict.

    Switched off RD-Agent accepts nothing: tests/bridge/test_verdict.py asks its own classes.
    """
    box, market = runs.box_with_market(tmp_path / "box")
    seams.write_set(box.project / "set", seams.factor_frame(market))
    run = runs.rdagent(box, "fin_model", "--loop_n", "2", **ON)
    assert run.status == 0, run.output[-3000:]
    assert [model.metrics["IC"] > USED for model in run.trained] == [True, True]
    assert run.text_log.count(ACCEPTED) == 2
    for kind, said in best_in(run).items():
        assert "name: SmallMLP\n" in said, kind
        assert "SmallMLP2" not in said, kind
        result = re.search(r"^(?:Backtest )?Result: IC +(\S+)$", said, re.MULTILINE)
        assert result is not None, kind
        assert float(result[1]) == pytest.approx(run.trained[0].metrics["IC"], abs=1e-5), kind
    assert run.log_folder is not None
    code = (
        "import pathlib, sys; from rdagent_sota_bridge.report import gather, history; "
        "run = history.read_run(pathlib.Path(sys.argv[1])); "
        "print([loop.accepted for loop in run.loops], gather.judged(run), run.notes)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, run.log_folder],
        env=box.environment("http://127.0.0.1:1"),
        capture_output=True,
        text=True,
    )
    assert found.stdout == "[True, True] VerdictCount(read=2, unread=0, in_vain=0) ()\n", found.stderr


def test_the_oldest_rdagent(tmp_path: Path) -> None:
    """0.8.0, whose YAML has base features and width written in; a base set of the user's; a collision."""
    box, market = runs.box_with_market(tmp_path / "box", runs.oldest_python())
    frame = seams.factor_frame(market, MINE=1.0)
    seams.write_set(box.project / "set", frame)
    base = {
        "MINE": "$close/Ref($close, 1)",
        "量价": "Corr($close, Log($volume+1), 10)",
        "MA20": ALPHA22["MA20"],
    }
    (box.project / "base.json").write_text(json.dumps(base))
    run = runs.rdagent(
        box, "fin_model", "--loop_n", "1", "--all_duration", "1h", ALPHA_FACTORS="base.json", **ON
    )
    model = one_model(run, 4)
    manifest = manifest_of(model)
    assert manifest["qlib_loaded"]["columns"] == sorted({*base, *frame.columns})
    assert manifest["versions"]["rd_agent_side"]["rdagent"] == "0.8.0"
    assert manifest["training"]["test"] == ["2017-01-01 00:00:00", "2020-08-01 00:00:00"], "as in its YAML"
    assert placed(model).parent == box.project / "git_ignore_folder" / "sota_store"
    for line in ("SOTA factors shape: ", "叠加Alpha因子: 2个", "SOTA factors used: Qlib loaded 4 columns"):
        assert line in run.text_log


def test_the_runner_class_without_the_hook(tmp_path: Path) -> None:
    """QLIB_MODEL_RUNNER alone, the hook off: check and hand-off work, the courtesies are missing.

    The set is in parts, a folder of the file's name.
    """
    box, market = runs.box_with_market(tmp_path / "box")
    place, frame = box.project / "set" / "combined_factors_df.parquet", seams.factor_frame(market)
    place.mkdir(parents=True)
    for number, part in enumerate((frame.iloc[:9000], frame.iloc[9000:])):
        part.to_parquet(place / f"part-{number}.parquet")
    variables = {
        "RDAGENT_SOTA_BRIDGE": "0",
        "QLIB_MODEL_RUNNER": "rdagent_sota_bridge.runner.SotaModelRunner",
    }
    refused = runs.rdagent(
        box, "fin_model", "--loop-n", "1", **{**ON, **variables, "SOTA_WORKSPACE_PATH": "nowhere"}
    )
    assert (refused.status, refused.requests) == (1, [])
    assert "SOTA workspace path not found: nowhere" in refused.output
    run = runs.rdagent(box, "fin_model", "--loop-n", "1", **ON, **variables)
    one_model(run, 23)
    assert run.text_log == ""
    assert "SOTA factors layout: a folder of 2 parts" in run.output
    assert ACCEPTED in run.output


def test_qlib_in_docker(tmp_path: Path) -> None:
    """The set reaches the network in a container that has the workspace alone and another Qlib folder.

    The stand-in engine (tests/engine.py) breaks every link that leads out of the workspace. In `~/.qlib` lies
    a market that the set does not fit: a check against it would stop the run. All paths have spaces and
    letters that are not ASCII.
    """
    box, market = runs.box_with_market(tmp_path / "ein Kästchen 因子")
    data = box.project / "Qlib-Daten 数据"
    (box.home / ".qlib").rename(data)
    shutil.copytree(data / "qlib_data" / "cn_data", box.provider)
    for file in (box.provider / "instruments").iterdir():
        file.write_text(file.read_text().replace("SH", "XX").replace("SZ", "XX"))
    seams.write_set(box.project / "Satz 因子", seams.factor_frame(market))
    image = {**box.environment("http://127.0.0.1:1/v1"), "PATH": box.path(box.qlib_python)}
    with Engine(image) as engine:
        variables = {
            **ON,
            "SOTA_WORKSPACE_PATH": "Satz 因子",
            "MODEL_CoSTEER_ENV_TYPE": "docker",
            "DOCKER_HOST": engine.url,
            "QLIB_DOCKER_EXTRA_VOLUMES": json.dumps({str(data): {"bind": "/root/.qlib/", "mode": "rw"}}),
        }
        run = runs.rdagent(box, "fin_model", "--loop_n", "1", **variables)
    model = one_model(run, 23)
    stored = manifest_of(model)["factor_set"]["stored"]
    assert stored["placed_as"] in ("copy", "clone")
    assert Path(stored["path"]).stat().st_mode & 0o777 == 0o444, "the chmod in the container reached it"
    assert (model.workspace / "combined_factors_df.parquet").stat().st_mode & 0o777 == 0o777
    (trained,) = engine.started("qrun conf_sota_factors_model.yaml")
    assert "timeout --kill-after=10 3600 qrun" in trained.command[-1]
    assert trained.workspace == model.workspace
    assert trained.seen["combined_factors_df.parquet"] == "file"
    assert "broken" not in trained.seen.values()
    assert [host for host, (inside, _) in trained.mounts.items() if inside == "/root/.qlib/"] == [str(data)]


def damaged(box: Sandbox) -> None:
    """Cut a factor file in the middle."""
    file = box.project / "set" / "combined_factors_df.parquet"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_codes(box: Sandbox) -> None:
    """Write a set with another vendor's instrument codes."""
    frame = pd.read_parquet(box.project / "set")
    frame.index = frame.index.set_levels(
        [f"{code[2:]}.{code[:2]}" for code in frame.index.levels[1]], level=1
    )
    frame.to_parquet(box.project / "set" / "combined_factors_df.parquet")


def test_bad_input_at_the_command_line(tmp_path: Path) -> None:
    """Status 1, one message, no traceback, no LLM request, the line in the text log; fin_factor runs."""
    box, market = runs.box_with_market(tmp_path / "box")
    seams.write_set(box.project / "set", seams.factor_frame(market))
    write_source_data(market, box.project)
    cases = (
        (None, {"SOTA_WORKSPACE_PATH": "typo"}, "SOTA workspace path not found: typo"),
        (other_codes, {}, "none of the file's instruments is in the market"),
        (damaged, {}, "the file is damaged or cut off"),
    )
    for spoil, variables, expected in cases:
        if spoil is not None:
            spoil(box)
        run = runs.rdagent(box, "fin_model", "--loop_n", "1", **{**ON, **variables})
        assert (run.status, run.requests) == (1, []), run.output[-3000:]
        assert "Traceback" not in run.output
        assert run.output.count(expected) == 1
        assert expected in run.text_log
        assert ("Failed to load SOTA factors" in run.text_log) == (spoil is not None)

    factor_run = runs.rdagent(box, "fin_factor", "--loop_n", "1", "--step_n", "1", **ON)
    assert factor_run.status == 0, factor_run.output[-3000:]
    assert "factor_hypothesis" in {request.kind for request in factor_run.requests}
    assert "SOTA factors" not in factor_run.text_log.replace("SOTA factors in", "")
