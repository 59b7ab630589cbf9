"""A model as one file that can be taken away: a zip of plain files, with the digest of each."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import yaml
from pydantic import BaseModel, ValidationError

from rdagent_sota_bridge.check import factor_settings
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import children, qlib
from rdagent_sota_bridge.errors import BundleError, ChoiceError, shortened
from rdagent_sota_bridge.factor_set import panel
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child, fresh
from rdagent_sota_bridge.models.predict import LATEST_DAY, Prediction, check_scored, scores_in
from rdagent_sota_bridge.models.predict import SCRIPT as PREDICT_SCRIPT
from rdagent_sota_bridge.system import files

RECORD = "bundle.json"
"""What the bundle is, its first member."""

FORM = 1
WHAT = "bundle of a model"
SCRIPT, CODE, FACTOR_CODE, README = "predict.py", "model.py", "factors/", "README.md"
TASK = "task.yaml"
MEMBERS = (SCRIPT, CODE, TASK, "fitted.json", "weights.pt", README)

_MADE_BY = b'"made_by": "rdagent-sota-bridge'  # stands near the start of every bundle
_HEAD = 256
_SAME = {"python": 1, "torch": 1, "pyqlib": 2}  # how many parts of a version have to be those of the training
_DAMAGED = "take the file from where it was exported, or export the model again"


class Mining(BaseModel):
    """A run that mined columns.

    Attributes:
        columns: Its columns in the set.
        complete: Whether RD-Agent had dropped each row of it that lacks a value.
        code: The members with the factors' code, by factor; a code may name its column otherwise.
    """

    columns: tuple[str, ...]
    complete: bool
    code: dict[str, str]


class Record(BaseModel):
    """What `bundle.json` says.

    Attributes:
        made_by: This package and its release.
        form: Of the bundle: which members it has, and how `predict.py` is called.
        model: Name and type, where they are known.
        set_digest: Of the set that it was trained on; empty for none.
        mined: The mined columns.
        runs: The runs that mined them, where their code is known.
        versions: Of what the weights were trained with: Python, pyqlib, torch, pandas, numpy.
        files: SHA-256 (hex) by the name of a member.
    """

    made_by: str
    form: int
    model: dict[str, str] = {}
    set_digest: str = ""
    mined: tuple[str, ...] = ()
    runs: tuple[Mining, ...] = ()
    versions: dict[str, str] = {}
    files: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read whole and found undamaged.

    Attributes:
        path: The file.
        digest: Its SHA-256, hex: whoever has it from the exporter knows the file from a forgery.
        record: What it says of itself.
        contents: The bytes of its members, without `bundle.json`.
    """

    path: Path
    digest: str
    record: Record
    contents: Mapping[str, bytes]

    @property
    def code(self) -> dict[str, str]:
        """The Python files in it, by name."""
        return {name: text.decode() for name, text in self.contents.items() if name.endswith(".py")}


def pack(record: Mapping[str, Any], contents: Mapping[str, bytes]) -> bytes:
    """Return the zip of a bundle; the same contents give the same bytes, on any machine and day."""
    digests = {name: _sha256(content) for name, content in contents.items()}
    head = json.dumps({**record, "files": digests}, indent=1).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:  # stored: what deflate makes depends on zlib's release
        for name, content in {RECORD: head, **contents}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return written.getvalue()


def is_ours(file: BinaryIO) -> bool:
    """Return True for a file that may be written anew."""
    return _MADE_BY in file.read(_HEAD)


def read(path: Path) -> Bundle:
    """Return a bundle; nothing of it is run, and nothing is written.

    Raises:
        BundleError: if it can't be read, is damaged, or has another form.
    """
    try:
        with files.open_file(path) as file:
            whole = file.read()
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            members = archive.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                raise ValueError("a member is compressed, as none that was exported")
            found = {one.filename: archive.read(one) for one in members}
        named = json.loads(found.pop(RECORD))
        if named["form"] != FORM:
            fact = f"The bundle has the form {named['form']}, and this release reads the form {FORM}"
            raise BundleError(fact, str(path), "use the release that made it, or export the model again")
        record = Record.model_validate(named)
    except OSError as error:
        fix = "name a file that rdagent-sota export has written, readable for you"
        raise BundleError(f"The bundle can't be read: {error.strerror}", str(path), fix) from None
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        why = "bundle.json has another form" if isinstance(error, ValidationError) else shortened(error)
        raise BundleError(f"It is no bundle, or damaged: {why}", str(path), _DAMAGED) from None
    _check_members([one.filename for one in members], found, record, path)
    return Bundle(path, _sha256(whole), record, found)


def _check_members(names: list[str], found: Mapping[str, bytes], record: Record, path: Path) -> None:
    """Refuse members that are not those of this form; of these alone files are made, so no name leads out."""
    wanted = {RECORD, *MEMBERS, *(member for run in record.runs for member in run.code.values())}
    if sorted(names) != sorted(wanted):
        differing = sorted({*names} ^ wanted) or ["a member"]
        why = f"{differing[0]} is missing, too much, or in it twice"
    elif changed := [name for name, content in found.items() if _sha256(content) != record.files.get(name)]:
        why = f"{changed[0]} is not what it was when it was exported"
    elif not (why := _misfit(found, record)):
        return
    raise BundleError(f"The bundle is damaged: {why}", str(path), _DAMAGED)


def _misfit(found: Mapping[str, bytes], record: Record) -> str:
    """Return which member is nothing that `export` writes, whatever its digest; empty for none."""
    if without := [name for name in _SAME if not record.versions.get(name)]:
        return f"{RECORD} has no version of {without[0]}"
    for name in found:
        try:
            if name.endswith(".py"):
                found[name].decode()
            elif name == TASK and not isinstance(yaml.safe_load(found[name]), dict):
                return f"{name} has another form"
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            return f"{name} has another form ({shortened(error)})"
    return ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- its predictions ---


def predict(
    bundle: Bundle,
    trust: str | None,
    factors: Path | None,
    factor_data: str | None,
    days: tuple[str, str] | None,
) -> Prediction:
    """Return what the model of a bundle predicts, from Qlib's data and the factors' values; runs its code.

    Qlib is that of this Python where it has pyqlib and torch, else that of RD-Agent's conda environment. Data
    are loaded from the recorded start: the scores are those of the training, to the bit.

    Args:
        bundle: The bundle.
        trust: The SHA-256 that the user trusts.
        factors: The mined columns' values; None for a model without any, or with `factor_data`.
        factor_data: The folder of the data that the factors' code is run on.
        days: First and last day (ISO, both inclusive); None for the last on which every feature has values.

    Raises:
        BundleError: if it is not trusted, does not fit Qlib's environment, or predicts nothing.
        FactorFileError: if the file is no table of factors.
        ChoiceError: if it has not all columns.
        FreshValuesError: if the factors' code fails.
        PredictError: if a day is none that can be predicted.
    """
    if (trust or "").lower() != bundle.digest:
        fact = "The code in the bundle runs only if you trust it" if trust is None else "It is another bundle"
        fix = "compare with what export has printed, read the code with --show, then add "
        fix += f"--trust {bundle.digest}"
        raise BundleError(f"{fact}: its SHA-256 is {bundle.digest}", str(bundle.path), fix)
    mined = bundle.record.mined
    if mined and factors is None and factor_data is None:
        fact = f"The model needs values of the mined factors {', '.join(mined)}"
        fix = "bring them: --factors FILE.parquet; or data that their code is run on: --factor-data FOLDER"
        raise BundleError(fact, str(bundle.path), fix)
    python, env = _qlib(bundle)
    # A short path: sockets' paths below it have to fit into 108 characters.
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for member in MEMBERS:
            (folder / member).write_bytes(bundle.contents[member])
        if mined:
            _lay_ready(
                factors or _computed(bundle, Path(str(factor_data)).expanduser(), folder), mined, folder
            )
        task = yaml.safe_load(bundle.contents[TASK])
        asked = {"asked": LATEST_DAY if days is None else list(days), "late": False}
        about, last = child.run_script(folder, PREDICT_SCRIPT, {**task, **asked}, python, env)
        if about is None:
            fix = "see that Qlib's data are there, and that the factors' file has the days asked for"
            raise BundleError(f"The bundle predicts nothing, {last}", python, fix)
        scores = scores_in(folder, about)
    about |= {"factor_set": bundle.record.set_digest or None, "old_scores": None, "changed_data": False}
    found = Prediction(scores, scores.head(0), about)
    check_scored(found, bundle.path)
    return found


def _qlib(bundle: Bundle) -> tuple[str, dict[str, str]]:
    """Return Qlib's Python and its variables; refuse one that the weights do not fit."""
    python, env = sys.executable, dict(os.environ)
    versions = {name: version for name in ("pyqlib", "torch") if (version := children.installed(name))}
    if len(versions) == 2:
        versions["python"] = platform.python_version()
    else:
        side = qlib.usable_qlib()
        if isinstance(side, Line):
            fact = f"Qlib is not here: this Python has not both of pyqlib and torch, and {side.text}"
            raise BundleError(fact, python, f"pip install pyqlib torch, or {side.fix}")
        versions, env["PATH"] = side.versions, side.path
        python = str(shutil.which("python", path=side.path))
    for name, parts in _SAME.items():
        was, now = bundle.record.versions[name], versions[name]
        if was.split(".")[:parts] != now.split(".")[:parts]:
            fact = f"The bundle is of {name} {was}, and {name} {now} is here"
            raise BundleError(fact, python, f"use a Python environment with {name} {was}")
    return python, env


def _computed(bundle: Bundle, data: Path, folder: Path) -> Path:
    """Return a new file of the values that the factors' code makes of some data."""
    execution = replace(factor_settings.settings_of_rdagent(Path.cwd()), data_folder=data)
    parts = []
    for run in bundle.record.runs:
        made: dict[str, pd.Series] = {}
        for name, member in run.code.items():
            result = fresh.run_code(name, bundle.contents[member].decode(), execution)
            made |= {column: result[column] for column in run.columns if column in result}
        rows = pd.DataFrame(made)
        parts.append(rows.dropna() if run.complete else rows)
    made_all = [name for part in parts for name in part.columns]
    if missing := [name for name in bundle.record.mined if name not in made_all]:
        fact = f"The bundle has no code that makes {', '.join(missing)}"
        raise BundleError(fact, str(bundle.path), "bring their values: --factors FILE.parquet")
    file = folder / "computed.parquet"
    pd.concat(parts, axis=1).to_parquet(file)
    return file


def _lay_ready(factors: Path, mined: tuple[str, ...], folder: Path) -> None:
    """Write the mined columns of the user's file as Qlib is to read them."""

    def all_mined(held: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        if missing := [name for name in mined if name not in held[0]]:
            fact = f"The file has no column {', '.join(missing)}"
            raise ChoiceError(fact, str(factors), f"the model needs {', '.join(mined)}")
        return mined

    with panel.opened([factors], all_mined) as found, (folder / FACTOR_FILE).open("xb") as target:
        panel.write_normal(found, target, folder)
