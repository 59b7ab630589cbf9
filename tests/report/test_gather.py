"""What a report gathers from logs, and what follows from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE, Asked
from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.qlib_files.training_record import QlibRecord
from rdagent_sota_bridge.report import gather
from rdagent_sota_bridge.report.gather import Report, VerdictCount
from rdagent_sota_bridge.report.history import Loop, Run
from rdagent_sota_bridge.report.plain import as_plain
from tests import logs, reports
from tests.frames import factor_frame, nested, write

MINED, MODEL, BASE = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with a factor run, a model run on its set, and a model run without."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "git_ignore_folder" / "RD-Agent_workspace"
    for name in (MINED, MODEL, BASE):
        (root / name).mkdir(parents=True)
    logs.write_run(tmp_path / "log" / "mined", root, (MINED, ("momentum", "turnover"), True))
    logs.write_run(tmp_path / "log" / "models", root, (MODEL, (), True), kind="ModelRDLoop")
    logs.write_run(tmp_path / "log" / "base", root, (BASE, (), False), kind="ModelRDLoop")
    file = write(nested(factor_frame()), root / MINED)
    content = reports.manifest(("momentum", "turnover"), str(tmp_path / "log" / "mined"), 0)
    source = {"path": str(file), "digest": parquet.current_digest(file)}
    content["factor_set"] |= source
    content["factor_set"]["sources"][0] |= source
    (root / MODEL / manifest.MANIFEST_FILE).write_text(json.dumps(content), encoding="utf-8")
    for name, ic in ((MINED, 0.03), (MODEL, 0.0625), (BASE, 0.0125)):
        lines = [f"{metric},{value!r}" for metric, value in reports.metrics(ic).items()]
        (root / name / RESULT_FILE).write_text("\n".join([",0", *lines]) + "\n", encoding="utf-8")
    return tmp_path


def gathered(project: Path, *names: str) -> Report:
    """Return the report of some logs of the project."""
    return gather.gather([project / "log" / name for name in names])


def test_figures_are_those_of_the_results(project: Path) -> None:
    """Every metric is the one in `qlib_res.csv`, and a run's role is what its models were given."""
    plain = as_plain(gathered(project, "mined", "models", "base"))
    for run, ic in zip(plain["runs"], (0.03, 0.0625, 0.0125), strict=True):
        assert run["loops"][0]["metrics"] == reports.metrics(ic)
    assert [run["role"] for run in plain["runs"]] == ["factor mining", "with factors", "without factors"]


@pytest.mark.parametrize("names", [("mined", "models"), ("mined",), ("models",)], ids=",".join)
def test_a_set_is_analysed_once(names: tuple[str, ...], project: Path) -> None:
    """The set that a run accepted or a model was given is one analysis, with who mined each factor.

    Of a model run alone they are read from the log that its manifest names, whose run is not shown.
    """
    found = gathered(project, *names)
    assert len(found.runs) == len(names)
    assert [one.columns for one in found.factor_analyses] == [("momentum", "turnover")]
    origin = found.origins[found.factor_analyses[0].digest, "turnover"]
    assert (origin.log, origin.loop) == (project / "log" / "mined", 0)
    assert "the code of turnover" in origin.factor.code


@pytest.mark.parametrize("left", [None, b"PAR1", b""], ids=["gone", "replaced", "emptied"])
def test_the_model_keeps_the_values_that_the_factor_run_lost(left: bytes | None, project: Path) -> None:
    """Where the factor run's file is gone or changed, the set is read from the model's own workspace."""
    root = project / "git_ignore_folder" / "RD-Agent_workspace"
    (root / MINED / FACTOR_FILE).rename(root / MODEL / FACTOR_FILE)
    if left is not None:
        (root / MINED / FACTOR_FILE).write_bytes(left)
    place = root / MODEL / manifest.MANIFEST_FILE
    content = json.loads(place.read_text(encoding="utf-8"))
    content["factor_set"]["stored"]["digest"] = content["factor_set"]["digest"]
    place.write_text(json.dumps(content), encoding="utf-8")
    found = gathered(project, "models")
    (analysis,) = found.factor_analyses
    assert not any("not there" in note or "was changed" in note for note in analysis.notes)
    assert np.isfinite(np.asarray(analysis.correlation)).any()
    assert (analysis.digest, "momentum") in found.origins


@pytest.mark.parametrize(
    ("name", "file", "content", "note"),
    [
        ("models", manifest.MANIFEST_FILE, "{}", "The manifest of loop 0 of models can't be read"),
        ("models", manifest.MANIFEST_FILE, '{"factor_set": []}', "The manifest of loop 0 of models"),
        ("models", manifest.MANIFEST_FILE, '{"factor_set": {"digest": "x", "columns": 1}}', "The manifest"),
        ("base", "ret.parquet", "no parquet", "Loop 0 of base"),
        ("base", "ret.pkl", "no pickle", "Loop 0 of base"),
        ("none", "", "", "accepted no factor loop"),
        ("models", "log", "", "The log that mined a factor set: "),
    ],
)
def test_what_can_not_be_shown_is_a_note(
    name: str, file: str, content: str, note: str, project: Path
) -> None:
    """A manifest, returns or a log that can't be read, and a run that accepted nothing, leave a part out."""
    root = project / "git_ignore_folder" / "RD-Agent_workspace"
    if file == "log":
        (project / "log" / "mined").rename(project / "elsewhere")
    elif file:
        (root / {"models": MODEL, "base": BASE}[name] / file).write_text(content, encoding="utf-8")
    else:
        logs.write_run(project / "log" / "none", project / "w", ("d" * 32, ("gap",), False))
    found = gathered(project, name)
    assert (len(found.factor_analyses), found.returns, found.origins) == (file == "log", {}, {})
    assert any(note in one for one in found.notes)


def test_no_log_is_no_report(tmp_path: Path) -> None:
    """A folder without sessions stops the report."""
    with pytest.raises(SessionError):
        gather.gather([tmp_path])


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        (reports.model_loop(0, 0.1, columns=("a",)), True),
        (reports.model_loop(0, 0.1), False),
        (reports.model_loop(0, 0.1, record=QlibRecord(23, None, True)), True),
        (reports.model_loop(0, 0.1, record=None), False),
        (reports.model_loop(0, 0.1, record=None, workspace=None), None),
        (reports.model_loop(0, 0.1, record=None, metrics={}), None),
    ],
)
def test_whether_a_model_had_factors(loop: Loop, expected: bool | None) -> None:
    """The manifest says it, else Qlib's record, else a workspace without either; nothing does without one."""
    assert gather.has_factors(loop) is expected


READ = Asked((DECISION,), (DECISION,), True)
OTHER = Asked((REPLACE,), (REPLACE,), True)
REFUSED = Asked((REPLACE,), (REPLACE,), False)
BOTH = Asked((REPLACE,), (DECISION, REPLACE), False)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(True, READ), (False, READ)], VerdictCount(2, 0, 0)),
        ([(False, OTHER), (False, REFUSED), (False, OTHER)], VerdictCount(0, 3, 2)),
        ([(False, BOTH), (False, OTHER)], VerdictCount(1, 1, 1)),
        ([(False, OTHER), (True, READ)], VerdictCount(1, 1, 1)),
        ([(True, OTHER), (False, REFUSED)], VerdictCount(2, 0, 0)),
        ([(False, None), (False, Asked((), (), False))], VerdictCount(0, 0, 0)),
        ([], VerdictCount(0, 0, 0)),
    ],
    ids=[
        "read as asked for",
        "RD-Agent's own",
        "an LLM that adds it",
        "changed in between",
        "a fork",
        "unknown",
        "none",
    ],
)
def test_how_a_run_was_judged(answers: list[tuple[bool, Asked | None]], expected: VerdictCount) -> None:
    """Verdicts asked for in a form that is not read are counted, with those that said yes in vain."""
    loops = (
        reports.model_loop(at, 0.1, accepted=yes, asked=asked) for at, (yes, asked) in enumerate(answers)
    )
    assert gather.judged(Run(Path("/a"), "fin_model", tuple(loops))) == expected


@pytest.mark.parametrize(
    ("ours", "base", "alike"),
    [(READ, OTHER, False), (OTHER, OTHER, True), (READ, READ, True), (READ, None, True), (None, None, True)],
)
def test_runs_of_other_verdicts_do_not_compare(ours: Asked | None, base: Asked | None, alike: bool) -> None:
    """Models that could be accepted and models that could not don't stand side by side in silence."""
    runs = (
        Run(Path("/a"), "fin_model", (reports.model_loop(1, 0.1, columns=("a",), asked=ours),)),
        Run(Path("/b"), "fin_model", (reports.model_loop(1, 0.1, asked=base),)),
    )
    assert gather.judged_alike(runs) is alike
    plain = as_plain(Report(reports.CREATED, runs, {}, (), ()))
    assert plain["judged_alike"] is alike
    assert plain["runs"][0]["judged"] == dataclasses.asdict(gather.judged(runs[0]))


def test_json_is_plain() -> None:
    """The figures go through JSON without NaN, with every run, curve, sheet and origin."""
    whole = reports.whole_report(2, 2)
    plain = as_plain(whole)
    again = json.loads(json.dumps(plain, allow_nan=False, ensure_ascii=False).encode())
    assert again == plain
    assert len(plain["returns"]) == len(whole.returns)
    sheet = plain["factor_analyses"][0]["sheets"][0]
    assert sheet["rolling_ic"][0] is None
    assert sheet["mean_ic"] == whole.factor_analyses[0].sheets[0].mean_ic
    assert plain["returns"][0]["days"][0] == "2017-01-03"
    assert len(plain["origins"]) == 2
    assert plain["difference"]["answer"] == "better"
    assert plain["tested_alike"] is True
