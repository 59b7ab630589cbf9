"""What a bundle is made of, and which models are refused; a stand-in predicts."""

from __future__ import annotations

import getpass
import io
import json
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import (
    BundleError,
)
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import bundle, child, export
from tests import trained
from tests.factor_codes import OLD, PLAIN, code_of, mine, trained_on, values_of

RECORDED = pd.Series([0.5, 0.25], name="score")
VERSIONS = {"python": "3.11.7", "pyqlib": "0.9.7", "torch": "2.1.0", "pandas": "2.2.0", "numpy": "1.26.0"}

Answer = Callable[..., None]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the workspace of a model below HOME, which is the current folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return trained.with_pickles(trained.write_training(tmp_path / "model"))


@pytest.fixture
def qlib(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Return what sets the scores of the plain files, and those of the recorded model."""

    def answer(scores: pd.Series = RECORDED, now: pd.Series = RECORDED) -> None:
        def call(function: str, folder: Path, script: str) -> None:
            assert (function, script) == ("run_in_qlib", "sota_export.py")
            mined = pd.read_parquet(folder / FACTOR_FILE).columns.get_level_values(-1)
            columns = json.loads((folder / "sota_request.json").read_text())["columns"]
            assert columns == sorted([*trained.BASE.names, *mined]) and (folder / "params.pkl").is_file()
            for name in ("weights.pt", "fitted.json"):
                (folder / name).write_text(name)
            scores.to_frame().to_parquet(folder / "scores.parquet")
            RECORDED.to_frame().to_parquet(folder / "recorded.parquet")
            (folder / "sota_answer.json").write_text(json.dumps(VERSIONS))

        monkeypatch.setattr(child, "call", call)
        monkeypatch.setattr(export, "predict_again", lambda _: now.to_frame())

    answer()
    return answer


def members(content: bytes) -> dict[str, bytes]:
    """Return the members of a bundle."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def provider(model: Path, place: str) -> None:
    """Let Qlib have recorded another folder of its data."""
    for file in model.glob("mlruns/*/*/artifacts/*"):
        if file.name in ("config", "task"):
            file.unlink()
    shutil.rmtree(model / "mlruns")
    document = trained.config(width=4)
    document["qlib_init"]["provider_uri"] = place
    trained.write_record(model, document)
    trained.with_pickles(model)


@pytest.mark.parametrize(
    ("recorded", "written"),
    [
        ("~/.qlib/qlib_data/cn_data", "~/.qlib/qlib_data/cn_data"),
        ("{home}/.qlib/cn", "~/.qlib/cn"),
        ("/data/qlib", "/data/qlib"),
    ],
)
def test_nothing_of_this_machine_is_in_it(
    recorded: str, written: str, model: Path, qlib: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No path below HOME, no user, host or key; the task is what Qlib recorded."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    provider(model, recorded.format(home=Path.home()))
    before = sorted(model.rglob("*"))
    made = export.make(model)
    assert sorted(model.rglob("*")) == before
    found = members(made.content)
    assert sorted(found) == sorted([bundle.RECORD, *bundle.MEMBERS])
    task, expected = yaml.safe_load(found["task.yaml"]), trained.config(width=4)
    assert task["qlib_init"] == {"provider_uri": written, "region": "cn"}
    assert {name: task[name] for name in ("model", "dataset")} == {
        name: expected["task"][name] for name in ("model", "dataset")
    }
    text = b"".join(found.values()).decode()
    private = [str(Path.home()), str(model), socket.gethostname(), "sk-of-the-user", model.name + "/"]
    private += [getpass.getuser()] if getpass.getuser() != "root" else []
    assert [word for word in private if word in text] == []
    record = json.loads(found[bundle.RECORD])
    assert (record["mined"], record["set_digest"]) == (list(trained.MINED), trained.DIGEST)
    assert (made.rows, made.difference) == (2, 0.0)


def test_the_code_of_the_factors_is_in_it(tmp_path: Path, qlib: Answer) -> None:
    """Of each run its own, the latest up to the set's loop; that of a run without a log is not known."""
    before, alpha, later, beta = (code_of("alpha", days=days) for days in (1, 2, 3, 4))
    first = mine(
        tmp_path, "one", {"alpha": before}, {"alpha": alpha}, {"alpha": later}, loop=1, columns=["alpha"]
    )
    second = mine(tmp_path, "two", {"beta": beta, "gone": PLAIN}, columns=["beta"])
    values = pd.concat([values_of(alpha, OLD).dropna(), values_of(code_of("beta", days=3), OLD)], axis=1)
    model = trained.with_pickles(trained_on(tmp_path, values.assign(gamma=1.0), first, second))
    found = members(export.make(model).content)
    runs = json.loads(found[bundle.RECORD])["runs"]
    code = [[found[member].decode() for member in run["code"].values()] for run in runs]
    assert ([run["columns"] for run in runs], code) == ([["alpha"], ["beta"]], [[alpha], [beta]])
    assert [run["complete"] for run in runs] == [True, True]


def other(value: float) -> pd.Series:
    """Return scores of which one is another."""
    return pd.Series([0.5, value], name="score")


def test_data_that_have_changed_since(model: Path, qlib: Answer) -> None:
    """The recorded model gives the scores of the plain files: the weights are whole."""
    qlib(scores=other(0.375), now=other(0.375))
    assert export.make(model).difference == 0.125


def with_path(model: Path) -> None:
    """Let the model's code name a path of this machine."""
    (model / "model.py").write_text(f"# {Path.home()}/x")


@pytest.mark.parametrize(
    ("spoil", "scores", "fact"),
    [
        (trained.put("x", ""), other(0.375), r"keeps what its weights .* differ by up to 0.125"),
        (trained.put("x", ""), other(float("nan")), "keeps what its weights"),
        (with_path, RECORDED, "would show a path of this machine: .* in model.py"),
    ],
)
def test_models_that_are_refused(spoil: Any, scores: pd.Series, fact: str, model: Path, qlib: Answer) -> None:
    """One message, and the workspace is as it was."""
    qlib(scores)
    spoil(model)
    before = sorted(model.rglob("*"))
    with pytest.raises(BundleError, match=fact):
        export.make(model)
    assert sorted(model.rglob("*")) == before


# --- the command ---


def run(*arguments: str) -> Result:
    """Run `rdagent-sota export`."""
    return CliRunner().invoke(app, ["export", *arguments])


@pytest.mark.parametrize("difference", [0.0, 0.125])
def test_the_command(difference: float, model: Path, qlib: Answer) -> None:
    """It says where the file is, its SHA-256, and what was compared; a bundle that is there is replaced."""
    qlib(other(0.25 + difference), other(0.25 + difference))
    for _ in range(2):
        done = run("model", "-o", "taken.zip")
        assert done.exit_code == 0, done.output
    size, digest = Path("taken.zip").stat().st_size, bundle.read(Path("taken.zip")).digest
    assert done.stdout.splitlines()[:2] == [
        f"{Path.cwd() / 'taken.zip'} ({size / 1000:.1f} kB)",
        f"SHA-256 {digest}",
    ]
    assert ("differ from the recorded ones by up to 0.125" in done.stdout) == (difference > 0)


def test_the_code_is_shown_and_does_not_run(
    model: Path, qlib: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not without `--trust` either: the message has the digest."""
    assert run("model", "-o", "taken.zip").exit_code == 0
    monkeypatch.setattr(child, "run_script", None)
    shown = CliRunner().invoke(app, ["predict", "taken.zip", "--show"])
    digest = bundle.read(Path("taken.zip")).digest
    assert shown.stdout.startswith(f"SHA-256 {digest}\n--- predict.py\n")
    assert f"--- model.py\n{trained.CODE}" in shown.stdout
    done = CliRunner().invoke(app, ["predict", "taken.zip", "--factors", str(model / FACTOR_FILE)])
    assert (done.exit_code, f"--trust {digest}" in done.stderr) == (1, True)
    done = CliRunner().invoke(app, ["predict", "taken.zip", "--changed-data", "--trust", digest])
    assert (done.exit_code, "--changed-data is for old scores" in done.stderr) == (1, True)
    assert not Path("predictions.csv").exists()


@pytest.mark.parametrize(
    ("output", "reason"),
    [("mine.zip", "no bundle of a model"), ("gone/model.zip", "No such file"), ("model", "Is a directory")],
)
def test_a_place_that_is_not_written(
    output: str, reason: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's file stays as it is; nothing is started."""
    monkeypatch.setattr(child, "call", None)
    with zipfile.ZipFile("mine.zip", "w") as archive:
        archive.writestr("notes.txt", "mine")
    before = Path("mine.zip").read_bytes()
    done = run("model", "-o", output)
    assert (done.exit_code, reason in done.stderr, "Traceback" in done.output) == (1, True, False)
    assert Path("mine.zip").read_bytes() == before
