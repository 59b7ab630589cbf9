"""Prepared data: the same handler, the same predictions, and nothing loaded that does not belong to a run."""

from __future__ import annotations

import ast
import copy
import datetime
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
import yaml

from rdagent_sota_bridge import manifest, prepared, qlib_config
from rdagent_sota_bridge.alpha import BaseSet, base_set
from rdagent_sota_bridge.demo.llm import SMALL_GRU, SMALL_MLP, Model
from rdagent_sota_bridge.demo.market import Market
from rdagent_sota_bridge.demo.sandbox import Sandbox
from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_side import sota_prepared
from rdagent_sota_bridge.qlib_side.sota_prepared import NotPreparedError
from tests import runs, seams

BASE = BaseSet("/base.yaml", (("KLEN", "($high-$low)/$open"), ("ROC5", "Ref($close, 5)/$close")))
NOTE = "factor set sha256:12ab, base set /base.yaml sha256:34cd"
TEMPLATE = Path("scenarios") / "qlib" / "experiment" / "model_template"
SPEC = util.find_spec("rdagent")
assert SPEC is not None
assert SPEC.submodule_search_locations
INSTALLED = Path(SPEC.submodule_search_locations[0]) / TEMPLATE
KEY, OTHER_KEY = "a" * 64, "b" * 64
ABOUT = {"identity": NOTE, "market": "csi300", "rows": 2, "columns": 1}
CONTENT = {"handler": {"_data": pd.DataFrame({"x": [1.0, 2.0]})}, "processors": {}}


def template(release: str) -> str:
    """Return the YAML of the installed RD-Agent, or of the oldest."""
    folder = INSTALLED
    if release == "oldest":
        (folder,) = (runs.oldest_python().parent.parent / "lib").glob(
            f"python3*/site-packages/rdagent/{TEMPLATE}"
        )
    return (folder / qlib_config.CONFIG_FILE).read_text(encoding="utf-8")


def document(text: str, **variables: str) -> Any:
    """Return a YAML as Qlib reads it."""
    values = {"num_features": "3", **qlib_config.feature_variables(BASE), **variables}
    return yaml.safe_load(jinja2.Template(text).render(values))


# --- our side: the YAML, the script, the list ---

every_release = pytest.mark.parametrize("release", ["installed", "oldest"])


@every_release
@pytest.mark.parametrize(
    "variables", [{"dataset_cls": "DatasetH"}, {"dataset_cls": "TSDatasetH", "step_len": "20"}], ids=str
)
def test_the_yaml_differs_in_the_handler_alone(release: str, variables: dict[str, str]) -> None:
    """The dataset's handler is made by our function from the same arguments; all else is RD-Agent's."""
    text = qlib_config.adapt(template(release), BASE, NOTE)
    changed = prepared.with_prepared_handler(text)
    expected = document(text, **variables)
    handler = expected["task"]["dataset"]["kwargs"]["handler"]
    assert (handler["class"], handler["module_path"]) == ("DataHandlerLP", "qlib.contrib.data.handler")
    handler.update({"class": "prepared_handler", "module_path": "sota_prepared"})
    assert document(changed, **variables) == expected
    assert expected["task"]["dataset"]["class"] == variables["dataset_cls"]


@every_release
def test_the_yaml_is_changed_once(release: str) -> None:
    """Adapted again, before or after the base set is put in, nothing more changes."""
    text = template(release)
    changed = prepared.with_prepared_handler(text)
    assert prepared.with_prepared_handler(changed) == changed != text
    adapted = qlib_config.adapt(changed, BASE, NOTE)
    assert adapted == prepared.with_prepared_handler(qlib_config.adapt(text, BASE, NOTE))
    assert qlib_config.adapt(adapted, BASE, NOTE) == adapted


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class: DataHandlerLP", "class: Alpha158"),
        ("module_path: qlib.contrib.data.handler", "module_path: mine"),
        ("class: DataHandlerLP", "class: DataHandlerLP  # mine"),
        ("class: DataHandlerLP", "klass: DataHandlerLP"),
        ("    dataset:\n", "    the_dataset:\n"),
        ("task:", "task: ]"),
        ("task:", "task: {% if %}"),
    ],
)
def test_an_unknown_yaml_is_refused(old: str, new: str) -> None:
    """A YAML whose handler is not the known one stops the run with a message, and is not guessed at."""
    text = template("installed")
    assert old in text
    with pytest.raises(SeamError, match="SOTA_PREPARED_DATA=false"):
        prepared.with_prepared_handler(text.replace(old, new))


def test_a_yaml_with_two_handlers_is_refused() -> None:
    """Which of two handlers is the dataset's is not guessed at."""
    text = template("installed")
    handler = "class: DataHandlerLP\n  module_path: qlib.contrib.data.handler\n"
    with pytest.raises(SeamError, match="found 2 times"):
        prepared.with_prepared_handler(f"{text}\nother:\n  {handler}")


@pytest.mark.parametrize(
    "name", ["plain", 'it\'s "quoted"', "back\\slash\\n", "因子", "line\nbreak", "{}\\1", "not\udcffutf8"]
)
def test_the_script_is_given_folder_and_identity(name: str, tmp_path: Path) -> None:
    """Whatever stands in a path or an identity, the script reads it as it was."""
    text = prepared.script(tmp_path / name, f"set {name}")
    found: dict[str, Any] = {"__name__": "sota_prepared"}
    exec(compile(text.encode(), "sota_prepared.py", "exec"), found)
    assert found["GIVEN"] == {"folder": str(tmp_path / name), "identity": f"set {name}"}


def test_the_script_is_python_3_8() -> None:
    """Qlib's environment may be older than ours."""
    ast.parse(prepared.script(Path("/store"), NOTE), feature_version=(3, 8))


def test_entries_tell_what_is_there(tmp_path: Path) -> None:
    """The list names what was prepared, used last first, tells damaged files, and prunes the others."""
    store = tmp_path / "store"
    assert prepared.entries(store) == []
    for number, key in enumerate((KEY, OTHER_KEY, "c" * 64)):
        sota_prepared.leave(store, key, CONTENT, {**ABOUT, "identity": f"set {number}"})
        os.utime(store / f"{key}.prepared", (0, 1e9 + number))
    damage(store / f"{KEY}.prepared", truncated)
    os.utime(store / f"{KEY}.prepared", (0, 2e9))
    first, second, third = prepared.entries(store)
    assert (first.identity, first.rows, first.created) == (None, None, None)
    assert [second.identity, third.identity] == ["set 2", "set 1"]
    assert (third.market, third.rows, third.columns) == ("csi300", 2, 1)
    assert third.size == third.path.stat().st_size
    assert third.last_used == datetime.datetime.fromtimestamp(1e9 + 1, datetime.timezone.utc)
    assert third.created is not None
    assert abs((datetime.datetime.now(datetime.timezone.utc) - third.created).total_seconds()) < 60
    assert prepared.prune(store, third.last_used, dry_run=False) == [first], "of no use"
    assert prepared.prune(store, second.last_used, dry_run=True) == [third]
    assert third.path.exists()
    assert prepared.prune(store, second.last_used, dry_run=False) == [third]
    assert list(store.iterdir()) == [second.path]


# --- the key ---

ARGUMENTS: dict[str, Any] = {
    "start_time": datetime.date(2008, 1, 1),
    "end_time": None,
    "instruments": "csi300",
    "data_loader": {
        "class": "NestedDataLoader",
        "kwargs": {
            "dataloader_l": [
                {"class": "qlib.contrib.data.loader.Alpha158DL", "kwargs": {"config": {"label": [["$x"]]}}},
                {"class": "qlib.data.dataset.loader.StaticDataLoader", "kwargs": {"config": FACTOR_FILE}},
            ]
        },
    },
    "infer_processors": [{"class": "RobustZScoreNorm", "kwargs": {"clip_outlier": True}}, "Fillna"],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the arguments with one of them replaced; the path's parts have dots between."""
    arguments = copy.deepcopy(ARGUMENTS)
    *parents, last = path.split(".")
    place: Any = arguments
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[int(last) if last.isdigit() else last] = value
    return arguments


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("start_time", datetime.date(2008, 1, 2)),
        ("start_time", "2008-01-01"),
        ("start_time", datetime.datetime(2008, 1, 1)),
        ("end_time", "None"),
        ("instruments", "csi500"),
        ("instruments", ["csi300"]),
        ("data_loader.kwargs.dataloader_l.0.kwargs.config.label", [["$y"]]),
        ("data_loader.kwargs.dataloader_l.0.kwargs.config.label", [("$x",)]),
        ("data_loader.kwargs.dataloader_l.0.kwargs.config.feature", [["$x"]]),
        ("infer_processors.0.kwargs.clip_outlier", 1),
        ("infer_processors.0.kwargs.clip_outlier", False),
        ("infer_processors", ["Fillna", {"class": "RobustZScoreNorm", "kwargs": {"clip_outlier": True}}]),
        ("learn_processors", []),
    ],
)
def test_every_argument_is_in_the_key(path: str, value: Any) -> None:
    """Another argument, or one of another type, is another key."""
    before = sota_prepared.plain(ARGUMENTS)
    assert sota_prepared.key_of(sota_prepared.plain(copy.deepcopy(ARGUMENTS))) == sota_prepared.key_of(before)
    assert sota_prepared.key_of(sota_prepared.plain(changed(path, value))) != sota_prepared.key_of(before)


@pytest.mark.parametrize(
    "value", [object(), {1: "x"}, {"x"}, b"x", pd.DataFrame()], ids=lambda value: type(value).__name__
)
def test_an_object_has_no_key(value: Any) -> None:
    """Of an object that is an argument nothing is known: nothing is prepared."""
    with pytest.raises(NotPreparedError, match="an argument of the handler is a"):
        sota_prepared.plain(changed("data_loader.kwargs.dataloader_l.1", value))


def test_a_named_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor file's bytes are in the key, whatever its time says."""
    monkeypatch.chdir(tmp_path)
    assert sota_prepared.named_files(ARGUMENTS) == {}
    file = tmp_path / FACTOR_FILE
    file.write_bytes(b"one")
    before = sota_prepared.named_files(ARGUMENTS)
    assert before == {FACTOR_FILE: hashlib.sha256(b"one").hexdigest()}
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert sota_prepared.named_files(ARGUMENTS) == {FACTOR_FILE: hashlib.sha256(b"two").hexdigest()}
    file.unlink()
    file.mkdir()
    with pytest.raises(NotPreparedError, match="is a folder"):
        sota_prepared.named_files(ARGUMENTS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data_loader", "mine.Loader"),
        ("data_loader", "file:///tmp/loader.pkl"),
        ("data_loader.class", "mine.Loader"),
        ("data_loader.module_path", "mine"),
        ("data_loader.kwargs.dataloader_l.0.class", "mine.Loader"),
        ("data_loader.kwargs.dataloader_l.0.kwargs.filter_pipe", [{"class": "F", "module_path": "mine.py"}]),
        ("infer_processors.0.class", "qlibber.Norm"),
        ("infer_processors.1", "mine.Fillna"),
        ("infer_processors.0", {"func": "mine.norm"}),
        ("shared_processors", ["mine.Fillna"]),
    ],
)
def test_code_that_is_not_qlibs_is_not_prepared(path: str, value: Any) -> None:
    """Qlib's version tells nothing of the user's own loaders and processors."""
    sota_prepared.check_classes(ARGUMENTS)
    with pytest.raises(NotPreparedError, match="is not Qlib's own"):
        sota_prepared.check_classes(changed(path, value))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a small Qlib data folder: two instruments in the market, two outside."""
    folder = tmp_path / "data"
    for place in ("calendars", "instruments"):
        (folder / place).mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("2020-01-02\n")
    (folder / "instruments" / "csi300.txt").write_text("SH600000\t2020-01-02\t2020-01-02\nSH600001\t\t\n")
    for code in ("sh600000", "sh600001", "sh600002", "sh000300"):
        (folder / "features" / code).mkdir(parents=True)
        (folder / "features" / code / "close.day.bin").write_bytes(b"12345678")
    return folder


def longer(file: Path) -> None:
    """Append to a file, and leave its time."""
    status = file.stat()
    file.write_bytes(file.read_bytes() + b"\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def later(file: Path) -> None:
    """Leave a file's content, and change its time by the least that a file system knows."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def same_size(file: Path) -> None:
    """Change a file's first byte, and leave its size and time."""
    status = file.stat()
    file.write_bytes(b"X" + file.read_bytes()[1:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


MARKET = ("SH600000", "SH600001", None, {"market": "csi300"}, ["SH600000", "SH600001"], "CSI300")


def state(data: Path, **arguments: Any) -> str:
    """Return what tells the state of a data folder."""
    return sota_prepared.market_state(data, {**ARGUMENTS, **arguments}, str)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("calendars/day.txt", longer),
        ("calendars/day.txt", later),
        ("instruments/csi300.txt", longer),
        ("instruments/csi300.txt", same_size),
        ("features/sh600000/close.day.bin", longer),
        ("features/sh600001/close.day.bin", later),
        ("features/sh600001/close.day.bin", Path.unlink),
        ("features/sh600001/open.day.bin", Path.touch),
        ("features/sh600001", shutil.rmtree),
        ("features/sh000300/close.day.bin", later),
    ],
)
def test_the_market_is_in_the_key(data: Path, name: str, change: Callable[[Path], None]) -> None:
    """Every file that the handler can read counts, that of an instrument which an expression names too."""
    arguments = {"infer_processors": ["ChangeInstrument('SH000300', $close)"]}
    before = state(data, **arguments)
    assert state(data, **arguments) == before
    change(data / name)
    assert state(data, **arguments) != before


@pytest.mark.parametrize("instruments", ["csi300", "CSI300", {"market": "csi300"}, ["SH600000", "SH600001"]])
def test_other_instruments_are_not_in_the_key(data: Path, instruments: Any) -> None:
    """Whatever names the market, its instruments count, and those of another market do not."""
    before = state(data, instruments=instruments)
    later(data / "features" / "sh600002" / "close.day.bin")
    assert state(data, instruments=instruments) == before
    later(data / "features" / "sh600001" / "close.day.bin")
    assert state(data, instruments=instruments) != before


@pytest.mark.parametrize(
    "expression",
    ["P($$roewa_q)", "ChangeInstrument(instrument='SH000300', $close)", "ChangeInstrument(NAME, $close)"],
)
def test_what_can_not_be_looked_at_has_no_key(data: Path, expression: str) -> None:
    """Financial reports, and an instrument that is not written out, are not prepared."""
    features = [[expression], ["X"]]
    with pytest.raises(NotPreparedError):
        state(data, **{"data_loader": {"kwargs": {"config": {"feature": features}}}})


@pytest.mark.parametrize("name", ["instruments/csi300.txt", "calendars/day.txt"])
def test_a_market_that_cannot_be_read_has_no_key(data: Path, name: str) -> None:
    """Without the list of instruments, or with one that is no text, nothing is prepared."""
    (data / "instruments" / "csi300.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(NotPreparedError, match="can't be read"):
        state(data)
    (data / "instruments" / "csi300.txt").unlink()
    with pytest.raises(NotPreparedError, match="No such file"):
        state(data)


# --- prepared files ---


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a folder with one prepared file."""
    folder = tmp_path / "a store"
    sota_prepared.leave(folder, KEY, CONTENT, ABOUT)
    return folder


class Bomb:
    """What must not be unpickled: it leaves a file where it is."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def truncated(content: bytes) -> bytes:
    """Cut a file's end off."""
    return content[:-1]


def headless(content: bytes) -> bytes:
    """Cut a file's begin off."""
    return content[1:]


def flipped(content: bytes) -> bytes:
    """Flip a bit of the pickle."""
    return bytes([content[0], content[1], content[2], content[3] ^ 1]) + content[4:]


def flipped_text(content: bytes) -> bytes:
    """Flip a bit of the text that tells of the pickle."""
    place = content.index(b"csi300")
    return content[:place] + b"b" + content[place + 1 :]


def empty(content: bytes) -> bytes:
    """Leave nothing."""
    return content[:0]


def halved(content: bytes) -> bytes:
    """Leave the first half, as a full disk does."""
    return content[: len(content) // 2]


def longer_text(content: bytes) -> bytes:
    """Let the end name a text that is longer than the file."""
    return content[:-48] + (1 << 19).to_bytes(8, "little") + content[-40:]


def damage(file: Path, how: Callable[[bytes], bytes]) -> None:
    """Change a file's content in place."""
    file.write_bytes(how(file.read_bytes()))


every_damage = pytest.mark.parametrize(
    "how", [truncated, headless, flipped, flipped_text, empty, halved, longer_text]
)


def test_what_was_left_is_loaded(store: Path) -> None:
    """The content comes back, the file says what it is, and nobody else can write it."""
    file = store / f"{KEY}.prepared"
    content, size = sota_prepared.load(file, KEY)
    pd.testing.assert_frame_equal(content["handler"]["_data"], CONTENT["handler"]["_data"])  # type: ignore[index]
    assert size == file.stat().st_size
    assert [path.name for path in store.iterdir()] == [file.name]
    assert (store.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


@every_damage
def test_a_damaged_file_is_not_unpickled(tmp_path: Path, how: Callable[[bytes], bytes]) -> None:
    """A file that is cut off or changed is refused before anything of it is run."""
    bomb = tmp_path / "exploded"
    sota_prepared.leave(tmp_path, KEY, Bomb(bomb), ABOUT)
    file = tmp_path / f"{KEY}.prepared"
    damage(file, how)
    with pytest.raises(NotPreparedError, match=r"cut off|damaged|another form"):
        sota_prepared.load(file, KEY)
    assert not bomb.exists()
    sota_prepared.leave(tmp_path, KEY, Bomb(bomb), ABOUT)
    sota_prepared.load(file, KEY)
    assert bomb.exists(), "what is not damaged is run, or the test could not fail"


def test_a_foreign_file_is_not_unpickled(tmp_path: Path) -> None:
    """A pickle of somebody else, a file of another key, and one that others can write are refused."""
    bomb = tmp_path / "exploded"
    file = tmp_path / f"{KEY}.prepared"
    file.write_bytes(pickle.dumps(Bomb(bomb)))
    with pytest.raises(NotPreparedError, match="cut off, or is no prepared file"):
        sota_prepared.load(file, KEY)
    sota_prepared.leave(tmp_path, OTHER_KEY, Bomb(bomb), ABOUT)
    (tmp_path / f"{OTHER_KEY}.prepared").replace(file)
    with pytest.raises(NotPreparedError, match="something else"):
        sota_prepared.load(file, KEY)
    sota_prepared.leave(tmp_path, KEY, Bomb(bomb), ABOUT)
    for mode in (0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(NotPreparedError, match="others can write it"):
            sota_prepared.load(file, KEY)
    file.unlink()
    file.mkdir()
    with pytest.raises(NotPreparedError, match="can't be read"):
        sota_prepared.load(file, KEY)
    assert not bomb.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_not_unpickled(store: Path) -> None:
    """A pickle is a program: only the user's own is run."""
    os.chown(store / f"{KEY}.prepared", 65534, -1)
    with pytest.raises(NotPreparedError, match="belongs to another user"):
        sota_prepared.load(store / f"{KEY}.prepared", KEY)


def test_a_class_that_is_gone_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose classes the environment does not have any more is built anew."""
    sota_prepared.leave(tmp_path, KEY, Path.touch, ABOUT)
    monkeypatch.delattr(Path, "touch")
    with pytest.raises(NotPreparedError, match="can't be loaded: AttributeError"):
        sota_prepared.load(tmp_path / f"{KEY}.prepared", KEY)


def test_those_used_last_are_kept(tmp_path: Path) -> None:
    """A folder keeps three: loading counts as use; one just written stays, even with a slow clock."""
    keys = [character * 64 for character in "abcdef"]
    for number, key in enumerate(keys[:3]):
        sota_prepared.leave(tmp_path, key, CONTENT, ABOUT)
        os.utime(tmp_path / f"{key}.prepared", (0, 1e9 + number))
    (tmp_path / "mine.txt").touch()
    sota_prepared.load(tmp_path / f"{keys[0]}.prepared", keys[0])
    with (tmp_path / f"{keys[1]}.prepared").open("rb") as opened:
        sota_prepared.leave(tmp_path, keys[3], CONTENT, ABOUT)
        assert {path.stem[0] for path in tmp_path.glob("*.prepared")} == {"a", "c", "d"}
        assert sota_prepared.read_about(opened)[0]["key"] == keys[1], "a file in use stays readable"
    for path in tmp_path.glob("*.prepared"):
        os.utime(path, (0, 4e9))
    sota_prepared.leave(tmp_path, keys[4], CONTENT, ABOUT)
    assert (tmp_path / f"{keys[4]}.prepared").exists()
    assert len(list(tmp_path.glob("*.prepared"))) == 3
    assert (tmp_path / "mine.txt").exists()


WRITING = """
import sys, time
from pathlib import Path
from rdagent_sota_bridge.qlib_side import sota_prepared
class Slow:
    def __reduce__(self):
        print("writing", flush=True)
        time.sleep(60)
        return int, ()
content = {"big": b"x" * (1 << 20), "slow": Slow()}
sota_prepared.leave(Path(sys.argv[1]), sys.argv[2], content, {"identity": ""})
"""


def test_a_killed_writer_leaves_the_old_state(store: Path) -> None:
    """Killed while it writes, a loop leaves no prepared file; what it left goes with the next one."""
    process = subprocess.Popen([sys.executable, "-c", WRITING, store, OTHER_KEY], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        (unfinished,) = store.glob(".*")
        os.utime(unfinished, (0, 1e9))
        assert not sota_prepared.is_abandoned(unfinished), "its writer lives"
        assert sota_prepared.prune(store, 3) == []
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with pytest.raises(FileNotFoundError):
        sota_prepared.load(store / f"{OTHER_KEY}.prepared", OTHER_KEY)
    sota_prepared.load(store / f"{KEY}.prepared", KEY)
    assert [entry.path for entry in prepared.entries(store)] == [store / f"{KEY}.prepared", unfinished]
    unfinished.touch()
    assert not sota_prepared.is_abandoned(unfinished), "it may be between two steps"
    os.utime(unfinished, (0, 1e9))
    sota_prepared.leave(store, OTHER_KEY, CONTENT, ABOUT)
    assert sorted(path.name for path in store.iterdir()) == [f"{KEY}.prepared", f"{OTHER_KEY}.prepared"]


def test_an_error_while_writing_leaves_nothing(store: Path) -> None:
    """What can't be pickled leaves neither a prepared file nor half of one."""
    before = (store / f"{KEY}.prepared").read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        sota_prepared.leave(store, KEY, {"big": b"x" * (1 << 20), "no": lambda: None}, ABOUT)
    assert [path.name for path in store.iterdir()] == [f"{KEY}.prepared"]
    assert (store / f"{KEY}.prepared").read_bytes() == before


def test_a_disk_is_not_filled(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file would take the last gigabyte of a disk, it is not begun."""
    free = shutil.disk_usage(store).free
    monkeypatch.setattr(sota_prepared, "SPARE", free - 10)
    with pytest.raises(NotPreparedError, match="GB free"):
        sota_prepared.leave(store, OTHER_KEY, CONTENT, ABOUT)
    assert [path.name for path in store.iterdir()] == [f"{KEY}.prepared"]


# --- the handler, with Qlib ---

LOOP = """
import hashlib, json, pickle, sys
import pandas, yaml
import qlib
from qlib.utils import init_instance_by_config
with open(sys.argv[1], encoding="utf-8") as file:
    config = yaml.safe_load(file)
qlib.init(**config["qlib_init"], kernels=1)
exec(sys.argv[2])
dataset = init_instance_by_config(config["task"]["dataset"])
handler = dataset.handler
found = {}
for name in ("_data", "_infer", "_learn"):
    frame = getattr(handler, name)
    text = repr((frame.dtypes.tolist(), frame.columns.tolist(), frame.columns.names, frame.index.names))
    digest = hashlib.sha256(text.encode() + frame.to_numpy().tobytes())
    digest.update(pandas.util.hash_pandas_object(frame.index).to_numpy().tobytes())
    found[name] = [digest.hexdigest(), len(frame)]
norm = handler.infer_processors[0]
found["norm"] = [[list(column) for column in norm.cols], norm.mean_train.tolist(), norm.std_train.tolist()]
found["attributes"] = [sorted(vars(handler)), sorted(vars(norm)), repr(handler.start_time)]
found["loaders"] = [vars(loader).get("_config", "") for loader in handler.data_loader.data_loader_l]
# What Qlib leaves of the dataset with every run (`qlib/model/trainer.py`, pyqlib 0.9.7).
left = pickle.dumps(dataset)
found["small"] = len(left) < 100_000
found["left"] = [list(column) for column in pickle.loads(left).handler.infer_processors[0].cols]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Loop:
    """One loop's dataset, as the loop's process tells it."""

    found: dict[str, Any]
    lines: list[str]
    outcome: prepared.Outcome | None


@dataclass(frozen=True)
class Place:
    """A model's workspace, in which datasets are made."""

    home: Path
    workspace: Path
    store: Path

    def command(self, *, plain: bool = False, before: str = "") -> subprocess.Popen[str]:
        """Start a loop, without prepared data or with it."""
        return subprocess.Popen(
            [sys.executable, "-c", LOOP, "plain.yaml" if plain else "prepared.yaml", before],
            cwd=self.workspace,
            env={**os.environ, "HOME": str(self.home), "PYTHONPATH": "./"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Loop:
        """Wait for a loop."""
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        *lines, last = output.splitlines()
        said = [line for line in lines if line.startswith("SOTA prepared data: ")]
        return Loop(json.loads(last), said, prepared.outcome(self.workspace))

    def run(self, *, plain: bool = False, before: str = "") -> Loop:
        """Run a loop."""
        return self.end(self.command(plain=plain, before=before))


def place(home: Path, workspace: Path, frame: pd.DataFrame, store: Path) -> Place:
    """Return a workspace with a factor set, the script, and RD-Agent's YAML without and with it."""
    seams.write_set(workspace, frame)
    text = qlib_config.adapt(template("installed"), BASE, NOTE)
    for name, config in (("plain", text), ("prepared", prepared.with_prepared_handler(text))):
        (workspace / f"{name}.yaml").write_text(
            jinja2.Template(config).render(num_features="3", **qlib_config.feature_variables(BASE)),
            encoding="utf-8",
        )
    (workspace / prepared.SCRIPT_FILE).write_text(prepared.script(store, NOTE), encoding="utf-8")
    return Place(home, workspace, store)


@pytest.fixture(scope="module")
def built(
    market_home: tuple[Path, Market], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, Loop, Loop]:
    """Return a workspace whose data was prepared, a loop without prepared data, and the one that built it."""
    home, market = market_home
    folder = tmp_path_factory.mktemp("prepared")
    here = place(home, folder / "workspace", seams.factor_frame(market, noise=1.0), folder / "a store")
    return here, here.run(plain=True), here.run()


@pytest.fixture
def here(built: tuple[Place, Loop, Loop], tmp_path: Path) -> Place:
    """Return a workspace and a store of a test's own, in which the data is prepared."""
    first = built[0]
    shutil.copytree(first.store, tmp_path / "store")
    shutil.copytree(first.workspace, tmp_path / "workspace")
    (tmp_path / "workspace" / prepared.OUTCOME_FILE).unlink()
    here = Place(first.home, tmp_path / "workspace", tmp_path / "store")
    (here.workspace / prepared.SCRIPT_FILE).write_text(prepared.script(here.store, NOTE), encoding="utf-8")
    return here


def test_a_loaded_handler_is_the_built_one(built: tuple[Place, Loop, Loop]) -> None:
    """Frames, what the processors learnt, and what Qlib leaves with a run are the same to the bit."""
    here, without, first = built
    later_loop = here.run()
    assert first.found == without.found == later_loop.found
    assert without.outcome is None
    assert without.lines == []
    assert first.outcome is not None
    assert later_loop.outcome is not None
    assert (first.outcome.state, later_loop.outcome.state) == ("built", "loaded")
    for loop in (first, later_loop):
        assert loop.outcome is not None
        assert loop.lines == [loop.outcome.line]
        assert loop.outcome.warning == ""
    assert later_loop.found["small"], "the data is not left with every run"
    (entry,) = prepared.entries(here.store)
    assert entry.identity == NOTE
    assert (entry.market, entry.rows, entry.columns) == ("csi300", without.found["_infer"][1], 5)


@pytest.mark.parametrize("how", [flipped])
def test_a_damaged_file_is_built_anew(
    here: Place, built: tuple[Place, Loop, Loop], how: Callable[[bytes], bytes]
) -> None:
    """A file that is not whole is never loaded: one line warns, the data is built, and the file mended."""
    (entry,) = prepared.entries(here.store)
    whole = entry.path.read_bytes()
    damage(entry.path, how)
    loop = here.run()
    assert loop.outcome is not None
    assert loop.outcome.state == "built"
    assert str(entry.path) in loop.outcome.warning
    assert loop.lines == [loop.outcome.line]
    assert "WARNING" in loop.outcome.line
    assert len(entry.path.read_bytes()) == len(whole)
    assert loop.found == built[1].found


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
"""Lets no file grow beyond 100 kB: what a full disk does in the middle of a file."""


@pytest.mark.parametrize("trouble", ["a file in the way", "full"])
def test_a_folder_that_cannot_be_written_costs_a_line(
    here: Place, built: tuple[Place, Loop, Loop], trouble: str
) -> None:
    """Without a folder to write, or with a disk that is full, the loop goes on with what it has built."""
    shutil.rmtree(here.store)
    if trouble != "full":
        here.store.write_text("")
    loop = here.run(before=FULL if trouble == "full" else "")
    assert loop.outcome is not None
    assert loop.outcome.state == "built"
    assert "not kept for later loops" in loop.outcome.warning
    assert loop.lines == [loop.outcome.line]
    assert loop.found == built[1].found
    if trouble == "full":
        assert list(here.store.iterdir()) == [], "nothing half-written stays"


def test_two_loops_at_once_are_both_right(here: Place, built: tuple[Place, Loop, Loop]) -> None:
    """Two that build at once leave one file, which a third loads."""
    shutil.rmtree(here.store)
    loops = [here.end(process) for process in [here.command(), here.command()]]
    assert [loop.found for loop in loops] == [built[1].found] * 2
    assert len(list(here.store.iterdir())) == 1
    third = here.run()
    assert third.outcome is not None
    assert third.outcome.state == "loaded"
    assert third.found == built[1].found


OWN_OPERATOR = """
import types
from qlib.data.ops import ElemOperator
mine = type("Mine", (ElemOperator,), {})
from qlib.config import C
C["custom_ops"] = [mine]
"""


def test_what_has_no_key_is_built(here: Place, built: tuple[Place, Loop, Loop]) -> None:
    """With operators of the user's own, nothing is loaded and nothing kept, and one line says why."""
    before = {path.name: path.stat().st_mtime_ns for path in here.store.iterdir()}
    loop = here.run(before=OWN_OPERATOR)
    assert loop.outcome is not None
    assert loop.outcome.state == "not used"
    assert "operators of the user's own" in loop.outcome.warning
    assert loop.found == built[1].found
    assert {path.name: path.stat().st_mtime_ns for path in here.store.iterdir()} == before


CHANGED_MEANWHILE = """
import os, pathlib, sota_prepared
from qlib.contrib.data import handler
class Handler(handler.DataHandlerLP):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        os.utime(pathlib.Path.home() / ".qlib/qlib_data/cn_data/features/sh600001/close.day.bin", (0, 1))
handler.DataHandlerLP = Handler
"""


def test_data_that_changes_while_it_is_built_is_not_kept(here: Place, tmp_path: Path) -> None:
    """A handler made of two states of Qlib's data is left under the name of neither."""
    shutil.rmtree(here.store)
    home = tmp_path / "home"
    shutil.copytree(here.home / ".qlib", home / ".qlib")
    loop = Place(home, here.workspace, here.store).run(before=CHANGED_MEANWHILE)
    assert loop.outcome is not None
    assert loop.outcome.state == "built"
    assert "changed meanwhile" in loop.outcome.warning
    assert not here.store.exists()


# --- the proof ---

SEEDED = "import torch\n\ntorch.manual_seed(7)\n"


def trained(
    box: Sandbox, name: str, model: Model, factors: Path, store: Path | None, *, tested: bool = False
) -> Path:
    """Train a model with qrun as RD-Agent does, and return its workspace.

    Args:
        box: The sandbox.
        name: The workspace's name.
        model: The model; it is seeded.
        factors: The folder of the factor set.
        store: Where prepared data is kept; None without the setting.
        tested: Back-test it too, and read the results.
    """
    base = base_set("alpha22")
    workspace = box.project / name
    shutil.copytree(INSTALLED, workspace)
    shutil.copyfile(factors / FACTOR_FILE, workspace / FACTOR_FILE)
    (workspace / "model.py").write_text(SEEDED + model.code, encoding="utf-8")
    note = hashlib.sha256((factors / FACTOR_FILE).read_bytes()).hexdigest()
    config = qlib_config.adapt(template("installed"), base, note)
    # Twenty processes that hand out batches, as RD-Agent asks for, take longer to start than the training.
    assert "n_jobs: 20" in config
    config = config.replace("n_jobs: 20", "n_jobs: 0")
    if not tested:
        config, _, back_test = config.partition("        - class: SigAnaRecord")
        assert "PortAnaRecord" in back_test
    if store is not None:
        config = prepared.with_prepared_handler(config)
        (workspace / prepared.SCRIPT_FILE).write_text(prepared.script(store, note), encoding="utf-8")
    (workspace / qlib_config.CONFIG_FILE).write_text(config, encoding="utf-8")
    result = workspace / "read_exp_res.py"
    result.write_text(manifest.with_probe(result.read_text(encoding="utf-8"), note), encoding="utf-8")
    series = {"dataset_cls": "TSDatasetH", "num_timesteps": "5", "step_len": "5"}
    variables = {
        **qlib_config.feature_variables(base),
        **model.training,
        **(series if model.model_type == "TimeSeries" else {"dataset_cls": "DatasetH"}),
        "num_features": str(len(base.features) + len(pd.read_parquet(factors).columns)),
        "n_epochs": "1",
        "test_end": "2020-08-01",
        "PYTHONPATH": "./",
    }
    commands = [[str(box.bin / "qrun"), qlib_config.CONFIG_FILE]]
    if tested:
        commands.append([str(box.python), "read_exp_res.py"])
    with tempfile.TemporaryDirectory(prefix="sota-") as temporary:  # Qlib leaves folders there
        for command in commands:
            done = subprocess.run(
                command,
                cwd=workspace,
                env=box.environment("http://127.0.0.1:9/v1", TMPDIR=temporary, **variables),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done.stdout[-3000:]
            if command == commands[0]:
                assert ("SOTA prepared data: " in done.stdout) == (store is not None)
    return workspace


def predictions(workspace: Path) -> tuple[bytes, pd.DataFrame]:
    """Return what a run predicted: the bits of the values, and the table."""
    file = runs.finished_run(workspace) / "artifacts" / "pred.pkl"
    table = pd.read_pickle(file)
    return table.to_numpy().tobytes(), table


def state_of(workspace: Path) -> str:
    """Return what came of the prepared data in a run."""
    found = prepared.outcome(workspace)
    assert found is not None
    assert found.warning == ""
    return found.state


@pytest.mark.e2e
def test_predictions_are_the_same_with_prepared_data(tmp_path: Path) -> None:
    """Predictions are the same to the bit without it, building it and loading it; another set's differ.

    A network over one day and one over a series of days load the same file.
    """
    box, market = runs.box_with_market(tmp_path / "box")
    store = tmp_path / "store"
    frame = seams.factor_frame(market, noise=1.0)
    factors = seams.write_set(tmp_path / "factors", frame)
    other = seams.write_set(tmp_path / "other", frame.assign(noise=frame["noise"].to_numpy()[::-1]))
    with ThreadPoolExecutor(2) as pool:
        begun = [
            pool.submit(trained, box, name, SMALL_MLP, factors, at, tested=True)
            for name, at in (("without", None), ("built", store))
        ]
        without, built = (future.result() for future in begun)
        begun = [
            pool.submit(trained, box, "loaded", SMALL_MLP, factors, store, tested=True),
            pool.submit(trained, box, "other set", SMALL_MLP, other, store),
            pool.submit(trained, box, "series", SMALL_GRU, factors, None),
            pool.submit(trained, box, "series, loaded", SMALL_GRU, factors, store),
        ]
        loaded, other_set, series, loaded_series = (future.result() for future in begun)

    assert [state_of(workspace) for workspace in (built, loaded, other_set, loaded_series)] == [
        "built",
        "loaded",
        "built",
        "loaded",
    ]
    bits, table = predictions(without)
    assert len(table) > 1000
    assert table["score"].nunique() > 1000, "a constant would be the same whatever were loaded"
    expected = manifest.read_loaded(without)
    assert expected is not None
    assert len(expected.columns) == 24
    metrics = pd.read_csv(without / "qlib_res.csv", index_col=0).iloc[:, 0]
    for workspace in (built, loaded):
        pd.testing.assert_frame_equal(predictions(workspace)[1], table, check_exact=True)
        assert predictions(workspace)[0] == bits
        assert manifest.read_loaded(workspace) == expected
        found = pd.read_csv(workspace / "qlib_res.csv", index_col=0).iloc[:, 0]
        # The back-test sums over a set of codes, in another order in every process (`get_stock_list` in
        # `qlib/backtest/position.py`, pyqlib 0.9.7): its last digits differ between any two runs.
        assert found[["IC", "Rank IC"]].to_dict() == metrics[["IC", "Rank IC"]].to_dict()
        pd.testing.assert_series_equal(found.sort_index(), metrics.sort_index(), rtol=1e-9)
    (artifact,) = loaded.glob("mlruns/*/*/artifacts/dataset")
    assert artifact.stat().st_size < 100_000, "the data is not left with every run"
    assert len(prepared.entries(store)) == 2
    assert predictions(other_set)[0] != bits
    assert predictions(loaded_series)[0] == predictions(series)[0] != bits
