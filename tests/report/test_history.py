"""What a run did, loop by loop, as its log and the workspaces show it."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytz

from rdagent_sota_bridge.bridge.verdict import Asked
from rdagent_sota_bridge.errors import SessionError, UntrustedSessionError
from rdagent_sota_bridge.report import history
from rdagent_sota_bridge.report.history import Factor
from tests import logs, trained
from tests.factor_set.test_sessions import signed


def model(workspace: Path, code: str = trained.CODE, hypothesis: str = "") -> Any:
    """Return an experiment on a model, with the coder's code, as RD-Agent has it before the training."""
    experiment = logs.model_experiment(workspace)
    experiment.sub_workspace_list[0].file_dict["model.py"] = code
    if hypothesis:
        from rdagent.core.proposal import Hypothesis

        experiment.hypothesis = Hypothesis(hypothesis, "because", "", "", "", "")
    return experiment


def skip(loop: Any, number: int, experiment: Any, text: str) -> None:
    """Let RD-Agent itself skip a loop whose coding raised an error it skips on."""
    from rdagent.core.exception import CoderError

    logs.begin(loop, number, experiment)
    outputs = loop.loop_prev_out[number]
    outputs.update({"_LOOP_IDX": number, "coding": None, "_EXCEPTION": CoderError(text)})
    outputs["feedback"] = loop.feedback(outputs)
    if hasattr(loop.trace, "sync_dag_parent_and_hist"):  # 0.8.0 has done so in the step before
        loop.record(outputs)
    loop.step_idx[number] = len(loop.steps)


def write_run(root: Path, *experiments: Any, kind: str = "ModelRDLoop") -> Path:
    """Write the log of a run whose loops all ended with a verdict; only the first is accepted."""
    loop = logs.new_loop(kind)
    log = root / "log" / "run"
    for number, experiment in enumerate(experiments):
        logs.finish(loop, number, experiment, number == 0)
        logs.dump(loop, log, number)
    return log


def root_of(project: Path) -> Path:
    """Return the folder of a project's workspaces."""
    return project / "git_ignore_folder" / "RD-Agent_workspace"


def test_a_trained_model(tmp_path: Path) -> None:
    """Name, verdict, times, code, metrics, width, manifest and record stand together, in a moved project."""
    old, project = tmp_path / "old", tmp_path / "new"
    workspace = trained.write_training(root_of(old) / "w")
    write_run(old, model(workspace, hypothesis="A net will do."))
    shutil.move(old, project)
    run = history.read_run(project / "log" / "run")
    assert (run.command, run.log, run.notes) == ("fin_model", project / "log" / "run", ())
    (loop,) = run.loops
    assert (loop.number, loop.kind, loop.name, loop.model_type) == (0, "model", "SmallMLP", "Tabular")
    assert (loop.accepted, loop.failure, loop.cached, loop.features) == (True, "", False, 4)
    assert (loop.code, loop.hypothesis) == (trained.CODE, "A net will do.")
    assert (loop.workspace, loop.ended, loop.seconds) == (root_of(project) / "w", logs.BEGIN, 0.0)
    assert loop.started == logs.BEGIN - datetime.timedelta(minutes=1)
    assert loop.metrics == pytest.approx(trained.METRICS, nan_ok=True)
    assert loop.manifest is not None and loop.record is not None
    assert loop.record.num_features == 4


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was made",)


WHOLE, IC = pd.Series(trained.METRICS, name="0"), pd.Series({"IC": 0.9})


@pytest.mark.parametrize(
    ("space", "result", "metrics", "cached", "features", "notes"),
    [
        ("empty", WHOLE, trained.METRICS, True, None, 0),
        ("manifest of 0.1.0", WHOLE, trained.METRICS, True, None, 0),
        ("baseline", IC, trained.METRICS, False, 20, 0),
        ("gone", IC, {"IC": 0.9}, None, None, 0),
        ("gone", None, {}, None, None, 0),
        ("no number", None, {}, None, 20, 0),
        ("gone", "a text", {}, None, None, 1),
        ("gone", pd.Series(["a text"]), {}, None, None, 1),
        ("gone", pd.DataFrame({"IC": [1.0], "R": [2]}), {}, None, None, 1),
        ("gone", pd.Series([_Hostile()], index=["IC"]), {}, None, None, 1),
    ],
    ids=str,
)
def test_where_a_result_is(
    space: str,
    result: object,
    metrics: dict[str, float],
    cached: bool | None,
    features: int | None,
    notes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file wins over the session, whose result is the cache's; what is no number is said, and not run."""
    monkeypatch.chdir(tmp_path)
    workspace = root_of(tmp_path) / "w"
    if space == "empty":
        workspace.mkdir(parents=True)
    elif space == "manifest of 0.1.0":
        trained.write_manifest(workspace, from_cache=True)
    elif space != "gone":
        trained.write_baseline(workspace)
    if space == "no number":
        (workspace / "qlib_res.csv").write_text(",0\nIC,nan\nRank IC,1e999\n")
    experiment = model(workspace)
    experiment.result = result
    run = history.read_run(write_run(tmp_path, experiment))
    (loop,) = run.loops
    assert loop.metrics == pytest.approx(metrics, nan_ok=True)
    assert (loop.cached, loop.features, len(run.notes)) == (cached, features, notes)
    assert all("loop 0" in note for note in run.notes)
    assert loop.failure.startswith("its result is gone: no qlib_res.csv" if not metrics else "")
    assert not (tmp_path / "was made").exists()


def test_a_skipped_loop(tmp_path: Path) -> None:
    """A loop that RD-Agent skipped has the exception's text, in both releases' forms."""
    loop = logs.new_loop("FactorRDLoop")
    skip(loop, 0, logs.factor_experiment(tmp_path / "w", "a"), "no code at all")
    logs.dump(loop, tmp_path, 0)
    (found,) = history.read_run(tmp_path).loops
    assert (found.failure, found.accepted, found.metrics) == ("no code at all", False, {})
    assert (found.number, found.name, found.cached) == (0, "a", None)


def test_loops_without_a_verdict(tmp_path: Path) -> None:
    """A loop that was begun is shown as unfinished, with what its steps left; its time is without pauses."""
    loop = logs.new_loop("ModelRDLoop")
    logs.finish(loop, 0, model(tmp_path / "w"), True)
    for step in loop.loop_trace[0]:
        step.start -= datetime.timedelta(seconds=20)
    logs.begin(loop, 1, model(trained.write_training(root_of(tmp_path) / "v"), hypothesis="Deeper."))
    logs.begin(loop, 2, None)
    logs.dump(loop, tmp_path / "log" / "run", 2)
    finished, begun, empty = history.read_run(tmp_path / "log" / "run").loops
    assert (finished.accepted, finished.seconds) == (True, 40)
    assert (begun.number, begun.kind, begun.name, begun.accepted) == (1, "model", "SmallMLP", None)
    assert begun.failure == "not finished: the last step that ended is direct_exp_gen"
    assert (begun.hypothesis, begun.features, begun.metrics) == ("Deeper.", 4, {})
    assert (empty.kind, empty.name) == ("unknown", "")


def test_factors_and_a_model(tmp_path: Path) -> None:
    """Every factor has its texts and code, in rejected loops too; one that was given up has no code."""
    accepted = logs.factor_experiment(tmp_path / "w", "a", "b", gave_up=("b",))
    rejected = logs.factor_experiment(tmp_path / "v", "c")
    run = history.read_run(write_run(tmp_path, accepted, rejected, model(tmp_path / "u"), kind="QuantRDLoop"))
    first, second, third = run.loops
    assert (run.command, third.kind) == ("fin_quant", "model")
    assert (first.kind, first.name, first.code, second.accepted) == ("factor", "a, b", "", False)
    assert first.factors == (
        Factor("a", "description", "formulation", "# the code of a\n"),
        Factor("b", "description", "formulation", ""),
    )
    assert [one.code for one in second.factors] == ["# the code of c\n"]


def test_what_was_asked(tmp_path: Path) -> None:
    """Settings stand as text, the run's own over RD-Agent's; what may be secret is left out."""
    from rdagent.app.qlib_rd_loop.conf import MODEL_PROP_SETTING

    log = write_run(tmp_path, model(tmp_path / "w"))
    general = {"step_semaphore": 1, "evolving_n": 3, "app_tpl": None, "workspace_path": Path("/w"), "x": [1]}
    secrets = {"api_key": "k", "github_token": "t", "SECRET": "s", "db_password": "p"}
    logs.dump_object(general | secrets, log / "RD_AGENT_SETTINGS" / "7" / "2026-01-05_09-00-00-000001.pkl")
    asked = {"evolving_n": 10, "train_start": "2008-01-01", "test_end": None, "interactor": ""}
    logs.dump_object({"evolving_n": 0}, log / "RDLOOP_SETTINGS" / "7" / "2026-01-05_08-00-00-000001.pkl")
    logs.dump_object(asked, log / "RDLOOP_SETTINGS" / "7" / "2026-01-05_09-00-00-000001.pkl")
    expected = {
        "step_semaphore": "1",
        "evolving_n": "10",
        "workspace_path": "/w",
        "train_start": "2008-01-01",
    }
    assert history.read_run(log).asked == expected
    file = log / "RDLOOP_SETTINGS" / "7" / "2026-01-05_10-00-00-000001.pkl"
    logs.dump_object(MODEL_PROP_SETTING.model_dump(), file)  # RD-Agent's own settings, as it logs them
    assert history.read_run(log).asked["evolving_n"] == str(MODEL_PROP_SETTING.evolving_n)


def test_how_the_verdict_was_asked_for(tmp_path: Path) -> None:
    """The last request of each loop counts, whichever process made it; without one nothing is known."""
    log = write_run(tmp_path, *(model(tmp_path / str(number)) for number in range(3)))
    old, new = 'Respond: {"Replace Best Result": "yes or no"}', 'Respond: {"Decision": <true or false>}'
    moment = pytz.timezone("Asia/Shanghai").localize(datetime.datetime(2026, 1, 5, 17, 0))
    for number, name, system, response in (
        (0, "9/2026-01-05_09-00-01-000001.pkl", old, '{"Replace Best Result": "yes"}'),
        (0, "10-11/2026-01-05_09-00-02-000001.pkl", new, '{"Decision": false}'),
        (1, "7/2026-01-05_10-00-02-000001.pkl", old, '{"Replace Best Result": "yes"}'),
    ):
        content = {"system": system, "user": "u", "resp": response, "start": moment, "end": moment}
        logs.dump_object(content, log / f"Loop_{number}" / "feedback" / "debug_llm" / name)
    run = history.read_run(log)
    assert [loop.asked for loop in run.loops] == [
        Asked(("Decision",), ("Decision",), False),
        Asked(("Replace Best Result",), ("Replace Best Result",), True),
        None,
    ]
    assert run.notes == ()


SETTINGS = "log/run/RDLOOP_SETTINGS/7/2026-01-05_09-00-00-000001.pkl"
REQUEST = "log/run/Loop_0/feedback/debug_llm/7/2026-01-05_09-00-01-000001.pkl"
SPACE = "git_ignore_folder/RD-Agent_workspace/w"
PARAMS = f"{SPACE}/mlruns/202467401526266377/{trained.RECORDER}/params"


@pytest.mark.parametrize(
    ("place", "content"),
    [
        (f"{SPACE}/sota_manifest.json", b""),
        (f"{SPACE}/sota_manifest.json", b"[1]"),
        (f"{SPACE}/sota_manifest.json", b"{"),
        (f"{SPACE}/sota_manifest.json", b"\xed\xa0\x80"),
        pytest.param(f"{SPACE}/sota_manifest.json", b"[" * 200_000, id="nested too deep"),
        (f"{SPACE}/qlib_res.csv", b"\xff\xfe"),
        (f"{PARAMS}/model.kwargs.pt_model_kwargs.num_features", b"5"),
        (SETTINGS, b"\x80cut"),
        (SETTINGS, {"evolving_n": 10**5000}),
        (REQUEST, b"\x80cut"),
        (REQUEST, ["system"]),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else None,
)
def test_what_can_not_be_read_is_a_note(place: str, content: object, tmp_path: Path) -> None:
    """Whatever is damaged, of another form or contradicts itself, one note names it; the rest stands."""
    workspace = trained.write_training(root_of(tmp_path) / "w")
    experiment = model(workspace)
    experiment.result = pd.Series(trained.METRICS)
    log = write_run(tmp_path, experiment)
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content) if isinstance(content, bytes) else logs.dump_object(content, file)
    run = history.read_run(log)
    (loop,), (note,) = run.loops, run.notes
    assert str(file) in note or str(workspace) in note
    assert ("two input widths" in note) == ("num_features" in place)
    assert (loop.manifest is None) == ("manifest" in place)
    assert (loop.features, loop.asked, run.asked) == (4, None, {})
    assert loop.metrics == pytest.approx(trained.METRICS, nan_ok=True)


def test_a_log_without_a_session(tmp_path: Path) -> None:
    """A folder without sessions, and one with a file of another form, are errors, as for every command."""
    with pytest.raises(SessionError, match="holds no session"):
        history.read_run(tmp_path)
    file = logs.dump_object({"a": 1}, tmp_path / "__session__" / "0" / "0_direct_exp_gen")
    with pytest.raises(SessionError, match="no session of RD-Agent's") as caught:
        history.read_run(tmp_path)
    assert caught.value.place == str(file)


@signed
def test_a_session_of_another_key(tmp_path: Path) -> None:
    """A session that is signed with another key is refused."""
    log = write_run(tmp_path, model(tmp_path / "w"))
    file = next(log.rglob("__session__/0/*"))
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UntrustedSessionError):
        history.read_run(log)
