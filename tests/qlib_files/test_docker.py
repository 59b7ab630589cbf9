"""Qlib in a container: what is mounted, where that is here, and a run through RD-Agent's own QTDockerEnv.

There is no Docker engine in CI: a stand-in answers Docker's own client (tests/engine.py). The real qrun runs
in it in test_e2e; here programs that stand in for it, on every release of RD-Agent that is tested.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from examples.demo.market import Market, write_market
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge.seams import is_applied
from rdagent_sota_bridge.check import inspect
from rdagent_sota_bridge.errors import SeamError, SettingsError
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import docker as qlib_docker
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.market import read_market
from rdagent_sota_bridge.settings import read_settings
from tests import seams
from tests.engine import Engine

VOLUMES = "QLIB_DOCKER_EXTRA_VOLUMES"
DATA = "~/.qlib/qlib_data/cn_data"
CONF = "rdagent.components.coder.model_coder.conf"


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variable that sends Qlib into a container, before RD-Agent reads it, or as if."""
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker")
    if CONF in sys.modules:
        monkeypatch.setattr(sys.modules[CONF].MODEL_COSTEER_SETTINGS, "env_type", "docker")


def test_a_fork_may_have_docker_in_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once RD-Agent is imported, its own object says where Qlib runs, whatever its default is."""
    settings = import_module(CONF).MODEL_COSTEER_SETTINGS
    assert not qlib_docker.is_qlib_in_docker()
    monkeypatch.setattr(settings, "env_type", "docker")
    assert qlib_docker.is_qlib_in_docker()


# --- where a folder of the container is ---


@pytest.mark.parametrize("kind", [None, "conda"])
def test_without_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str | None) -> None:
    """Qlib then reads what the path says here, whatever would be mounted."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VOLUMES, '{"/elsewhere": "/root/.qlib"}')
    if kind is not None:
        monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", kind)
    assert not qlib_docker.is_qlib_in_docker()
    assert qlib_docker.on_host(DATA) == tmp_path / ".qlib/qlib_data/cn_data"
    assert qlib_docker.shown(DATA) == DATA


@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize(
    ("volumes", "folder", "expected"),
    [
        (None, DATA, "{home}/.qlib/qlib_data/cn_data"),
        ({"/data/qlib": {"bind": "/root/.qlib/", "mode": "rw"}}, DATA, "/data/qlib/qlib_data/cn_data"),
        ({"/data/qlib": "/root/.qlib"}, DATA, "/data/qlib/qlib_data/cn_data"),
        ({"/data/a": "/root/.qlib", "/data/b": "/root/.qlib/qlib_data"}, DATA, "/data/b/cn_data"),
        ({"/data/cn": "/root/.qlib/qlib_data/cn_data/"}, DATA, "/data/cn"),
        ({"/data": "/data"}, "/data/qlib", "/data/qlib"),
        ({"/data": "/root/.qlib"}, "/root/.qlib/x/../cn", "/data/cn"),
        ({"/data": "/root/.qlibs"}, DATA, None),
        ({"qlib": "/root/.qlib"}, DATA, None),
        ({}, DATA, None),
    ],
)
def test_on_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, volumes: Any, folder: str, expected: str | None
) -> None:
    """The deepest mount that holds the path gives its place; a volume of Docker's own has none here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if volumes is not None:
        monkeypatch.setenv(VOLUMES, json.dumps(volumes))
    where = None if expected is None else Path(expected.format(home=tmp_path))
    assert qlib_docker.on_host(folder) == where
    assert qlib_docker.shown(folder) == (
        str(where)
        if where is not None
        else f"{folder} in the container, where {VOLUMES} mounts no folder of this machine"
    )


@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize("value", ['{"/data":', "/data", "[1]", '{"/data": {"mode": "rw"}}', '{"/data": 3}'])
def test_mounts_that_mean_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A setting that RD-Agent can't read either is named, with the form that it has to have."""
    monkeypatch.setenv(VOLUMES, value)
    with pytest.raises(SettingsError, match=f"{VOLUMES} can't be read") as raised:
        read_market(DATA, "csi300")
    assert '"bind": "/root/.qlib/"' in raised.value.fix


@pytest.mark.parametrize(
    "variables",
    [
        {"MODEL_CoSTEER_ENV_TYPE": "docker", VOLUMES: '{"/data": {"bind": "/root/.qlib/", "mode": "rw"}}'},
        {"model_costeer_env_type": "docker", VOLUMES.lower(): '{"/data": "/root/.qlib"}'},
        {"EXTRA_VOLUMES": '{"/data": "/root/.qlib"}'},
        {"EXTRA_VOLUMES": '{"/other": "/root/.qlib"}', VOLUMES: '{"/data": "/root/.qlib"}'},
    ],
)
def test_the_settings_are_read_as_rdagent_reads_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Names in any case, mounts in either form, and the variable without prefix that its base class has."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    named = import_module("rdagent.utils.env").QlibDockerConf().extra_volumes
    theirs = {host: at["bind"] if isinstance(at, dict) else at for host, at in named.items()}
    kind = import_module(CONF).ModelCoSTEERSettings().env_type
    monkeypatch.delitem(sys.modules, CONF)
    assert qlib_docker.volumes() == theirs
    assert qlib_docker.is_qlib_in_docker() is (kind == "docker")


@pytest.mark.usefixtures("docker")
def test_the_market_of_a_check_is_the_mounted_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, market_home: tuple[Path, Market]
) -> None:
    """With another folder mounted its market is compared; a line says where none is."""
    home, market = market_home
    monkeypatch.setenv("HOME", str(home))
    workspace = seams.write_set(tmp_path / "set", seams.factor_frame(market))
    seams.switch_on(monkeypatch, workspace)
    mounted = tmp_path / "other data"
    monkeypatch.setenv(VOLUMES, json.dumps({str(mounted): "/root/.qlib"}))
    found = inspect.inspect(read_settings(), dry_run.of_models().start, (locate.named(str(workspace)),))
    assert found.market is None
    assert any(str(mounted / "qlib_data" / "cn_data") in line.text for line in found.lines)
    write_market(mounted / "qlib_data" / "cn_data")
    found = inspect.inspect(read_settings(), dry_run.of_models().start, (locate.named(str(workspace)),))
    assert found.market is not None
    assert found.market.folder == mounted / "qlib_data" / "cn_data"


# --- the seam, and a training ---

IMAGE = """#!{python} -I
import os, shutil, sys
from pathlib import Path
import pandas as pd
box = Path({box!r})
if Path(sys.argv[0]).name == "qrun":
    pd.read_parquet({file!r})
    assert sys.argv[1] == "conf_sota_factors_model.yaml"
    assert (Path.home() / ".qlib/qlib_data/cn_data/calendars/day.txt").is_file()
    Path("ran").touch()
elif Path("ran").exists():
    for name in ("ret.parquet", "ret.pkl", "qlib_res.csv", "sota_loaded.json"):
        shutil.copy(box / name, name)
"""


@pytest.fixture
def engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, market_home: tuple[Path, Market], docker: None
) -> Iterator[Engine]:
    """Start the stand-in engine, with an image whose qrun reads the set, and switch the bridge on."""
    env = import_module("rdagent.utils.env")
    coder = import_module("rdagent.components.coder.model_coder.conf").MODEL_COSTEER_SETTINGS
    monkeypatch.setattr(coder, "env_type", "docker")
    programs = tmp_path / "image"
    programs.mkdir()
    for name in ("qrun", "python"):
        text = IMAGE.format(python=sys.executable, box=str(tmp_path), file=FACTOR_FILE)
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    returns = pd.DataFrame({"return": [0.0]})
    returns.to_parquet(tmp_path / "ret.parquet")
    returns.to_pickle(tmp_path / "ret.pkl")
    (tmp_path / "qlib_res.csv").write_text(",0\nIC,0.5\n")
    loaded = {
        "recorder": "r",
        "columns": sorted({*ALPHA22, "overnight_gap"}),
        "columns_without_training_values": [],
        "num_features": 23,
        "versions": {"qlib": "0.9.7"},
    }
    (tmp_path / "sota_loaded.json").write_text(json.dumps(loaded))
    home, market = market_home
    monkeypatch.setenv("HOME", str(home))
    folder = seams.write_set(tmp_path / "set", seams.factor_frame(market))
    seams.switch_on(monkeypatch, folder, SOTA_STORE_PATH=str(tmp_path / "store"))
    # RD-Agent made this when it was imported, from the home folder of then.
    (shared,) = env.QTDockerEnv.__init__.__defaults__ or (env.QlibDockerConf(),)
    monkeypatch.setattr(
        shared, "extra_volumes", {str(home / ".qlib"): {"bind": "/root/.qlib/", "mode": "rw"}}
    )
    monkeypatch.setattr(shared, "retry_count", 0)
    with Engine({"PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin"}) as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        yield started


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return RD-Agent's `utils.env` with its own QTDockerEnv, its shared configuration put back after."""
    env = import_module("rdagent.utils.env")
    for name in ("__init__", "prepare"):
        original = getattr(vars(env.QTDockerEnv)[name], "__wrapped__", vars(env.QTDockerEnv)[name])
        monkeypatch.setattr(env.QTDockerEnv, name, original)
    (shared,) = env.QTDockerEnv.__init__.__defaults__
    for name in ("extra_volumes", "running_timeout_period"):
        monkeypatch.setattr(shared, name, getattr(shared, name))
    return env


def seams_of(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply the seam to a class that is RD-Agent's own, until the test ends."""
    for owner, attribute, replacement in qlib_docker.patches(env):
        monkeypatch.setattr(owner, attribute, replacement)


def test_what_rdagent_does_to_its_own_mounts(
    engine: Engine, environments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the seam `get_model_env` ends in a StopIteration, and leaves no mounts and ten minutes.

    If this fails on a new release, the fault is gone there, and the seam can go for it.
    """
    get_model_env = import_module("rdagent.components.coder.model_coder.conf").get_model_env
    (shared,) = environments.QTDockerEnv.__init__.__defaults__
    with pytest.raises(StopIteration):
        get_model_env()
    assert (shared.extra_volumes, shared.running_timeout_period) == ({}, 600)


@pytest.mark.parametrize("switch", ["true", "perhaps"])
def test_each_environment_keeps_its_mounts(
    engine: Engine, environments: Any, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    """With the seam it is ready, and later ones have the mounts and the time that the settings say."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", switch)
    (shared,) = environments.QTDockerEnv.__init__.__defaults__
    mounted, seconds = dict(shared.extra_volumes), shared.running_timeout_period
    seams_of(environments, monkeypatch)
    found = import_module("rdagent.components.coder.model_coder.conf").get_model_env()
    assert found.conf.extra_volumes == mounted
    for later in (environments.QTDockerEnv(), environments.QTDockerEnv(shared)):
        assert (later.conf.extra_volumes, later.conf.running_timeout_period) == (mounted, seconds)
    own = environments.QlibDockerConf(extra_volumes={"/data": "/root/.qlib"})
    assert environments.QTDockerEnv(conf=own).conf is own


def test_switched_off_it_is_rdagents_own(
    engine: Engine, environments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the switch off RD-Agent behaves as if the seam were not there, fault and all."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    seams_of(environments, monkeypatch)
    (shared,) = environments.QTDockerEnv.__init__.__defaults__
    assert environments.QTDockerEnv().conf is shared
    with pytest.raises(StopIteration):
        import_module("rdagent.components.coder.model_coder.conf").get_model_env()


@pytest.mark.parametrize("shape", [{}, {"QTDockerEnv": object}, {"QTDockerEnv": type("Q", (), {})}])
def test_another_shape_is_refused(shape: dict[str, Any]) -> None:
    """A QTDockerEnv without a default configuration is no known one."""
    module = type(sys)("rdagent.utils.env")
    vars(module).update(shape)
    with pytest.raises(SeamError, match="QTDockerEnv has a form that is not known"):
        qlib_docker.patches(module)


def test_a_training_in_a_container(
    engine: Engine, environments: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The container gets the set as a file of the workspace, no link out; chmod reaches no stored file."""
    assert is_applied("docker")
    seams_of(environments, monkeypatch)
    runner = seams.build_runner()
    (stored,) = (tmp_path / "store").glob("*.parquet")
    before = (stored.stat().st_mode, stored.read_bytes())
    experiment = seams.model_experiment(f"in container {os.getpid()}")
    experiment.sub_workspace_list[0].inject_files(**{"model.py": f"model_cls = None  # {os.getpid()}\n"})
    developed = runner.develop(experiment)
    assert float(developed.result["IC"]) == 0.5
    workspace = developed.experiment_workspace.workspace_path
    for container in engine.containers:
        assert container.workspace == workspace
        assert container.mounts[str(workspace)] == ("/workspace/qlib_workspace/", "rw")
        assert "/root/.qlib/" in [inside for inside, _ in container.mounts.values()]
        assert container.seen[FACTOR_FILE] == "file"
        assert "broken" not in container.seen.values()
    assert [one.status for one in engine.started("chmod -R 777")] == [0, 0]
    file = workspace / FACTOR_FILE
    assert file.stat().st_mode & 0o777 == 0o777
    assert (stored.stat().st_mode, stored.read_bytes()) == before
    written = json.loads((workspace / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert written["factor_set"]["stored"]["placed_as"] in ("copy", "clone")
    assert written["qlib_loaded"]["num_features"] == 23


def test_a_link_out_of_the_workspace_would_break(engine: Engine, tmp_path: Path) -> None:
    """The stand-in is one that could show a fault: links out are broken in it, chmod reaches hard links."""
    workspace, outside = tmp_path / "w", tmp_path / "outside"
    workspace.mkdir()
    outside.write_text("x")
    outside.chmod(0o444)
    for name, leads_to in (("relative", "../outside"), ("absolute", str(outside)), ("inner", "hard")):
        (workspace / name).symlink_to(leads_to)
    os.link(outside, workspace / "hard")
    env = import_module("rdagent.utils.env")
    for name, works in (("relative", False), ("absolute", False), ("inner", True), ("hard", True)):
        done = env.QTDockerEnv().run(entry=f"cat {name}", local_path=str(workspace))
        assert (done.exit_code == 0) is works, name
    assert outside.stat().st_mode & 0o777 == 0o777
