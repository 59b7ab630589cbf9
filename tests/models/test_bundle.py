"""A bundle: what is found before anything of it runs, and what its script gets; the script is a stand-in."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import children
from rdagent_sota_bridge.doctor import qlib as environment
from rdagent_sota_bridge.errors import (
    BridgeError,
    BundleError,
    ChoiceError,
    FactorFileError,
    FreshValuesError,
)
from rdagent_sota_bridge.models import bundle, child
from tests import frames

MINED = ("gap", "turn")
SCRIPT = """\
import json, pathlib
import pandas as pd
print("a line of Qlib's")
asked = json.loads(pathlib.Path("sota_request.json").read_text())
assert (asked["asked"], asked["late"], asked["model"]) == (["2020-01-02", "2020-01-03"], False, "m")
assert not pathlib.Path("factors").exists() and pathlib.Path("predict.py").exists()
found = pd.read_parquet("combined_factors_df.parquet").sum(axis=1).to_frame("score")
found.to_parquet("sota_predictions.parquet")
days = sorted({str(day)[:10] for day, _ in found.index})
about = {"days": days, "versions": {"torch": "2"}}
pathlib.Path("sota_answer.json").write_text(json.dumps(about))
"""
VERSIONS = {"python": "3.11.7", "pyqlib": "0.9.7", "torch": "2.1.0+cpu", "pandas": "2.2.0", "numpy": "1.26.0"}

GAP = {"gap": "print('gap')"}

Members = dict[str, bytes]


def contents(*codes: str) -> Members:
    """Return the members of a bundle without `bundle.json`."""
    found = {name: b"content of " + name.encode() for name in bundle.MEMBERS} | {bundle.TASK: b"model: m"}
    return found | {f"{bundle.FACTOR_CODE}{place}.py": code.encode() for place, code in enumerate(codes)}


def packed(
    members: Members | None = None, code: dict[str, str] = GAP, complete: bool = False, **changed: Any
) -> bytes:
    """Return a bundle with the code of its factors, by factor."""
    about = {"made_by": "rdagent-sota-bridge 0.1.0", "form": 1, "mined": MINED, "versions": VERSIONS}
    named = {name: f"{bundle.FACTOR_CODE}{place}.py" for place, name in enumerate(code)}
    runs = [{"columns": list(MINED), "complete": complete, "code": named}]
    return bundle.pack({**about, "runs": runs, **changed}, contents(*code.values()) | (members or {}))


def written(folder: Path, content: bytes) -> Path:
    """Write a bundle, and return the file."""
    file = folder / "model.zip"
    file.write_bytes(content)
    return file


@pytest.fixture
def qlib(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the versions of Qlib and torch that are here, to be changed."""
    there = {name: VERSIONS[name] for name in ("pyqlib", "torch")}
    monkeypatch.setattr(children, "installed", there.get)
    return there


def test_what_was_packed_is_read(tmp_path: Path) -> None:
    """The same contents are the same bytes, and no time is in them."""
    content = packed()
    found = bundle.read(written(tmp_path, content))
    assert content == packed()
    assert (found.contents, found.digest) == (contents(*GAP.values()), hashlib.sha256(content).hexdigest())
    assert (found.record.mined, set(found.code)) == (MINED, {"predict.py", "model.py", "factors/0.py"})


def rezipped(changes: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a bundle with other members; None for one that is taken out."""
    with zipfile.ZipFile(io.BytesIO(packed())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | dict(changes)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return file.getvalue()


def twice() -> bytes:
    """Return a bundle with a member that is in it twice."""
    file = io.BytesIO(packed())
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("model.py", "other()")
    return file.getvalue()


RECORD = zipfile.ZipFile(io.BytesIO(packed())).read(bundle.RECORD)
UNLISTED = RECORD.replace(b'"model.py":', b'"another.py":')


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "no bundle, or damaged: File is not a zip file"),
        (packed()[:-30], "no bundle, or damaged"),
        (packed().replace(b"content of model.py", b"content of model.pz"), "Bad CRC-32 for file 'model.py'"),
        (rezipped({"bundle.json": None}), "no item named 'bundle.json'|bundle.json"),
        (rezipped({"bundle.json": b"{"}), "no bundle, or damaged"),
        (rezipped({"bundle.json": b"[]"}), "no bundle, or damaged"),
        (rezipped({"bundle.json": b'{"form": 1}'}), "bundle.json has another"),
        (rezipped({"weights.pt": None}), "weights.pt is missing"),
        (rezipped({"x.pkl": b""}), "x.pkl is missing, too much"),
        (rezipped({"model.py": b"other()"}), "model.py is not what it was"),
        (rezipped({"bundle.json": UNLISTED}), "model.py is not what it was"),
        (packed({"../x.py": b"x"}), "../x.py is missing, too much"),
        (packed({"/x.py": b"x"}), "/x.py is missing, too much"),
        (packed({"factors/../x.py": b"x"}), "factors/../x.py is missing, too much"),
        (twice(), "in it twice"),
        (rezipped({}, zipfile.ZIP_DEFLATED), "a member is compressed"),
        (packed(form=2), "The bundle has the form 2"),
        (packed(versions={**VERSIONS, "torch": ""}), "bundle.json has no version of torch"),
        (packed({bundle.TASK: b": : {"}), "task.yaml has another form"),
        (packed({bundle.TASK: b"- 1"}), "task.yaml has another form"),
        (packed({"model.py": b"\xff"}), "model.py has another form"),
    ],
    ids=lambda value: value if isinstance(value, str) else "zip",  # a zip holds the time of its making
)
def test_damage_is_found_when_it_is_read(content: bytes, fact: str, tmp_path: Path) -> None:
    """One message that names the file, and nothing is written."""
    file = written(tmp_path, content)
    with pytest.raises(BundleError, match=fact) as caught:
        bundle.read(file)
    assert (caught.value.place, list(tmp_path.iterdir())) == (str(file), [file])


def test_no_file(tmp_path: Path) -> None:
    """A missing file and a folder are one message each."""
    for place in (tmp_path, tmp_path / "none.zip"):
        with pytest.raises(BundleError, match="can't be read"):
            bundle.read(place)


# --- predictions ---


@pytest.fixture
def script(qlib: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what sets the script of Qlib's side."""

    def lies(text: str) -> None:
        monkeypatch.setattr(child, "script_text", {"sota_predict.py": text}.get)

    lies(SCRIPT)
    return lies


def predicted(
    folder: Path,
    content: bytes,
    trust: str | None = "",
    factors: Path | None = None,
    data: Path | None = None,
) -> Any:
    """Return the scores of a bundle; it is trusted where `trust` is empty."""
    found = bundle.read(written(folder, content))
    days = ("2020-01-02", "2020-01-03")
    return bundle.predict(found, found.digest if trust == "" else trust, factors, data and str(data), days)


def test_the_script_gets_the_mined_columns(tmp_path: Path, script: Any) -> None:
    """Without the others, in normal form, whatever form the user's file has; no factor code is laid out."""
    frame = frames.factor_frame(("turn", "other", "gap"))
    file = tmp_path / "mine.parquet"
    frame.reset_index().sample(frac=1, random_state=1).to_parquet(file)
    found = predicted(tmp_path, packed(set_digest="sha256:5"), factors=file)
    expected = frame[["gap", "turn"]].sum(axis=1).sort_index()
    pd.testing.assert_series_equal(found.scores["score"], expected, check_names=False)
    told = [found.about[name] for name in ("old_scores", "changed_data", "factor_set", "versions")]
    assert (told, len(found.moved)) == ([None, False, "sha256:5", {"torch": "2"}], 0)


@pytest.mark.parametrize(
    ("trust", "fact"), [(None, "only if you trust it"), ("0" * 64, "It is another bundle"), ("x", "another")]
)
def test_what_is_not_trusted_does_not_run(
    trust: Any, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the digest to compare."""
    monkeypatch.setattr(child, "run_script", None)
    content = packed()
    with pytest.raises(BundleError, match=fact) as caught:
        predicted(tmp_path, content, trust, frames.write(frames.factor_frame(MINED), tmp_path))
    assert hashlib.sha256(content).hexdigest() in caught.value.fact


@pytest.mark.parametrize(
    ("columns", "kind", "fact"),
    [
        (None, BundleError, "needs values of the mined factors gap, turn"),
        (("gap",), ChoiceError, "no column turn"),
        ((), FactorFileError, "can't be used"),
    ],
)
def test_factors_that_are_not_enough(
    columns: Any, kind: type[BridgeError], fact: str, tmp_path: Path, qlib: Any
) -> None:
    """A missing file, a missing column and a table of something else are one message each."""
    file = tmp_path / "factors.parquet"
    frame = frames.factor_frame(columns) if columns else pd.DataFrame({"a": [1.0]})
    frame.to_parquet(file)
    with pytest.raises(kind, match=fact):
        predicted(tmp_path, packed(), factors=None if columns is None else file)


CODE = """\
import pandas as pd
prices = pd.read_hdf("daily_pv.h5", key="data")
prices["price"].rename("{name}").to_frame().{rows}.to_hdf("result.h5", key="data")
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of data for factors' code, which this Python runs."""
    monkeypatch.setenv("FACTOR_CoSTEER_PYTHON_BIN", sys.executable)
    (tmp_path / "data").mkdir()
    frames.factor_frame(("price",)).to_hdf(tmp_path / "data" / "daily_pv.h5", key="data")
    return tmp_path / "data"


@pytest.mark.parametrize(("complete", "second"), [(False, "improved"), (True, "turn")])
def test_factor_code_in_place_of_values(
    complete: bool, second: str, tmp_path: Path, data: Path, script: Any
) -> None:
    """Rows that lack a value go where RD-Agent dropped them; a code may name its column otherwise."""
    code = {"gap": CODE.format(name="gap", rows="iloc[2:]"), second: CODE.format(name="turn", rows="iloc[:]")}
    found = predicted(tmp_path, packed(code=code, complete=complete), data=data)
    price = frames.factor_frame(("price",))["price"].sort_index()
    gap = price.drop(frames.factor_frame(("price",)).index[:2])
    expected = gap.add(price, fill_value=0)
    expected = expected.loc[gap.index] if complete else expected
    pd.testing.assert_series_equal(
        found.scores["score"].sort_index(), expected.sort_index(), check_names=False
    )


@pytest.mark.parametrize(
    ("code", "fact"),
    [
        ({"gap": "import sys; sys.exit('no')", "turn": ""}, "code of gap can't be run.*no"),
        ({"gap": CODE.format(name="gap", rows="iloc[:]")}, "no code that makes turn"),
        ({}, "no code that makes gap, turn"),
    ],
)
def test_factor_code_that_does_not_do(code: Any, fact: str, tmp_path: Path, data: Path, qlib: Any) -> None:
    """It fails, it does not make all columns, or there is none: one message each."""
    with pytest.raises((BundleError, FreshValuesError), match=fact):
        predicted(tmp_path, packed(code=code), data=data)


@pytest.mark.parametrize(
    ("name", "now"), [("torch", "1.13.1"), ("torch", "3.0"), ("pyqlib", "0.10.0"), ("python", "4.0.1")]
)
def test_another_qlib(
    name: str, now: str, tmp_path: Path, qlib: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has both versions."""
    qlib[name] = now
    if name == "python":
        monkeypatch.setattr("platform.python_version", lambda: now)
    with pytest.raises(
        BundleError, match=f"The bundle is of {name} {VERSIONS[name]}, and {name} {now}".replace("+", r"\+")
    ):
        predicted(tmp_path, packed(mined=()))


def test_no_qlib(tmp_path: Path, qlib: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in this Python nor in RD-Agent's conda environment."""
    del qlib["torch"]
    line = Line("qlib", "fail", "not looked at: conda is not on PATH", "install conda")
    monkeypatch.setattr(environment, "look_at_qlib", lambda: line)
    with pytest.raises(BundleError, match="conda is not on PATH") as caught:
        predicted(tmp_path, packed(mined=()))
    assert caught.value.place == sys.executable


def test_a_script_that_fails(tmp_path: Path, script: Any) -> None:
    """The message has the last line that was said."""
    script("import sys\nprint('a')\nsys.exit('no data')")
    with pytest.raises(BundleError, match="status 1: no data"):
        predicted(tmp_path, packed(mined=()))
