"""A stand-in for `rdagent` that behaves at its outside as RD-Agent does, and `rdagent-sota run` with it.

It leaves session files that RD-Agent's own classes wrote, takes `--path`, `--loop-n` and `LOG_TRACE_PATH` as
RD-Agent does, and hangs, crashes, or leaves a session cut off where a test wants it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import logs, seams
from tests.forking import Forks
from tests.frames import factor_frame, write

STEPS = ("direct_exp_gen", "coding", "running", "feedback", *(("record",) if logs.SIGNED else ()))
"""The steps of the installed RD-Agent: 0.8.0, which signs nothing, has no record."""

LAST_SESSION = f"{len(STEPS) - 1}_{STEPS[-1]}"
"""The name of the session file after a loop's last step."""

ACCEPTED_LOOP = 1
WORKSPACES = Path("git_ignore_folder") / "RD-Agent_workspace"

RDAGENT = '''\
"""Stands in for rdagent: `trouble.json` beside the logs' folder says what goes wrong, and where, once."""
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

STEPS = {steps!r}
templates = Path({templates!r})
command, *options = sys.argv[1:]
if options[:1] == ["--help"]:
    os.execv(sys.executable, [sys.executable, "usage.py", command, *options])
given = dict(zip(options[::2], options[1::2]))
project = Path.cwd()
log = Path(os.environ["LOG_TRACE_PATH"])
given_stage = json.loads(os.environ["_RDAGENT_SOTA_STAGE"])
with (project / "calls.jsonl").open("a") as calls:
    chosen = {{**given_stage["settings"], "LOG_TRACE_PATH": os.environ["LOG_TRACE_PATH"]}}
    calls.write(json.dumps({{"command": command, "options": options, "environment": chosen}}) + "\\n")
troubles = project / "trouble.json"
trouble = json.loads(troubles.read_text()) if troubles.exists() else {{}}
if trouble.get("command") != command:
    trouble = {{}}
if trouble.get("ignores_sigint"):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
factors = os.environ.get("STAND_IN_FACTORS", "accepting")
models = os.environ.get("STAND_IN_MODELS", "models")
template = templates / (factors if command == "fin_factor" else models)
done = set()
if "--path" in given:
    start = Path(given["--path"])
    last = int(start.parent.name), int(start.name.split("_")[0])
    every = [(loop, step) for loop in range(last[0] + 1) for step in range(len(STEPS))]
    done = set(every[: every.index(last) + 1])
    assert start.read_bytes() == (template / start.parent.name / start.name).read_bytes(), "cut off"
for loop in range(int(given["--loop-n"])):
    for number, step in enumerate(STEPS):
        if (loop, number) in done:
            continue
        print(f"Start Loop {{loop}}, Step {{number}}: {{step}}", flush=True)
        file = log / "__session__" / str(loop) / f"{{number}}_{{step}}"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = (template / str(loop) / file.name).read_bytes()
        if trouble.get("at") == [loop, step]:
            troubles.unlink()
            if trouble.get("cuts_off"):
                file.write_bytes(content[: len(content) // 2])
            if trouble["what"] == "ends":
                print("[bold]out of paper", flush=True)
                sys.exit(trouble["status"])
            child = subprocess.Popen(["timeout", "600", "sleep", "600"])
            (project / "hanging").write_text(json.dumps([os.getpid(), child.pid]))
            time.sleep(600)
        part = file.with_name("part")  # but for a kill in the middle, which a test asks for, files come whole
        part.write_bytes(content)
        part.rename(file)
'''

USAGE = '''\
"""The options of RD-Agent's commands (0.8.0 and 1.0.0), and one that fin_factor alone takes."""
from typing import Annotated
import typer
from rdagent_sota_bridge.bridge.cli_options import with_dashes

app = typer.Typer()
Checkout = Annotated[bool, typer.Option("--checkout/--no-checkout", "-c/-C")]

def command(path: str = "", loop_n: int = 0, step_n: int = 0, all_duration: str = "", checkout: Checkout = 1):
    pass

def with_one_more(
    path: str = "", loop_n: int = 0, step_n: int = 0, all_duration: str = "", checkout: Checkout = True,
    basis: str = "",
):
    pass

for name, function in {"fin_factor": with_one_more, "fin_model": command}.items():
    app.command(name, context_settings={"token_normalize_func": with_dashes})(function)
app()
'''

RUN = '''\
"""`rdagent-sota` with the stand-in, and without the looks at machine and market that take a minute."""
import hashlib, json, os, sys, time, types
from pathlib import Path
from types import SimpleNamespace
import rdagent_sota_bridge.cli as cli
from rdagent_sota_bridge.models import trainings
from rdagent_sota_bridge.run import gate, locks, stages
from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.system import child

def inspect(settings, start, located):
    print("checked", *(at.path for at in located), flush=True)
    content = b"".join(at.path.read_bytes() for at in located)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    quality = SimpleNamespace(factors=SimpleNamespace(digest=digest))
    return SimpleNamespace(lines=[], raise_failures=lambda: None, quality=quality)

def report(logs, output, as_json):
    output.write_text(json.dumps(logs))
    print(output)

def train_again(of, change, keep, threads, is_wanted):
    what = "ablation" if change.seed is None else f"seed {{change.seed}}"
    trouble = json.loads(os.environ.get("STAND_IN_ABLATION", "{{}}")).get(f"{{of.name}}{{change.seed or ''}}")
    print(f"{{what}} of {{of.name}} {{change.no_mined}}\\n", end="", flush=True)  # whole, of several threads
    if trouble == "hangs":
        with child.started(["sleep", "600"], os.environ, Path.cwd(), keep=keep) as process:
            Path("hanging").write_text(json.dumps([process.pid]))
            while is_wanted():
                time.sleep(0.05)
    if trouble:
        raise ResultError(trouble, str(of), "leave the model out")

trainings.train_again = train_again
cli.report = sys.modules["rdagent_sota_bridge.cli.report"] = types.ModuleType("report")
cli.report.run = report
gate.inspect = SimpleNamespace(inspect=inspect)
gate.rdagent = SimpleNamespace(qlib_start=lambda _: None)
gate.check_machine = lambda *_: print("machine checked", flush=True)
stages.find_rdagent = lambda: {rdagent!r}
locks.END_SECONDS = 3.0
cli.app()
'''


def write_templates(folder: Path) -> Path:
    """Write the sessions of a factor run that accepts loop 1, one that accepts none, and two model runs.

    The second of these went on without the factors.
    """
    for name, kind in (
        ("accepting", "FactorRDLoop"),
        ("rejecting", "FactorRDLoop"),
        ("models", "ModelRDLoop"),
        ("without", "ModelRDLoop"),
    ):
        loop = logs.new_loop(kind)
        if name == "without":
            loop.runner = SimpleNamespace(sota_bridge={"record": None, "reason": "the set is gone"})
        for number in range(4):
            workspace = folder / WORKSPACES / f"{name}{number}"
            if kind == "ModelRDLoop":
                experiment = seams.model_experiment()
                experiment.experiment_workspace.workspace_path = workspace
            else:
                experiment = logs.factor_experiment(workspace, f"factor_{number}")
            logs.begin(loop, number, experiment)
            for step in range(1, len(STEPS)):
                loop.step_idx[number] = step
                _put(loop, folder / name, number)
            logs.finish(loop, number, experiment, name == "accepting" and number == ACCEPTED_LOOP)
            _put(loop, folder / name, number)
    return folder


def _put(loop: Any, folder: Path, number: int) -> None:
    file = logs.dump(loop, folder, number)
    place = folder / str(number)
    place.mkdir(exist_ok=True)
    file.replace(place / file.name)


@dataclass(frozen=True)
class Project:
    """A folder to run `rdagent-sota run` in, with the stand-in."""

    folder: Path
    forks: Forks

    @property
    def log_dir(self) -> Path:
        """Where the logs are."""
        return self.folder / "log"

    @property
    def workspace(self) -> Path:
        """The workspace of the accepted factor loop."""
        return self.folder / WORKSPACES / f"accepting{ACCEPTED_LOOP}"

    def back_test(self, workspace: str, digest: str | None) -> None:
        """Leave a result in the workspace that a loop names, and a manifest with a digest."""
        folder = self.folder / WORKSPACES / workspace
        folder.mkdir(exist_ok=True)
        (folder / "qlib_res.csv").write_text(",0\nIC,0.5\n")
        if digest is not None:
            manifest = {"factor_set": {"digest": digest}, "mined_columns": ["f"]}
            (folder / "sota_manifest.json").write_text(json.dumps(manifest))

    @property
    def digest(self) -> str:
        """The digest that `inspect` gives to the accepted loop's set."""
        return f"sha256:{hashlib.sha256((self.workspace / FACTOR_FILE).read_bytes()).hexdigest()}"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the stand-in was called with."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def commands(self) -> list[str]:
        """The commands that the stand-in was called with."""
        return [call["command"] for call in self.calls]

    @property
    def state(self) -> dict[str, Any]:
        """The state of the newest job."""
        content: dict[str, Any] = json.loads(max(self.log_dir.glob("*_run.json")).read_text())
        return content

    def trouble(self, command: str, loop: int, step: str, what: str = "hangs", **more: Any) -> None:
        """Let the stand-in hang, or do what is said, at a step; once."""
        trouble = {"command": command, "at": [loop, step], "what": what, **more}
        (self.folder / "trouble.json").write_text(json.dumps(trouble))

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Start `rdagent-sota run`."""
        return subprocess.Popen(
            [sys.executable, str(self.folder / "run.py"), "run", *options],
            cwd=self.folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=listen_to_signals,
        )

    def run(self, *options: str, **variables: str) -> tuple[int, str]:
        """Run `rdagent-sota run` to its end, and return its status and output; in a fork, for its imports."""
        argv = ["run.py", "run", *options]
        code = f"import os, sys\nos.setsid()\nos.dup2(1, 2)\nsys.argv = {argv!r}\nexec(open('run.py').read())"
        done = self.forks.run(code, folder=self.folder, **variables)
        return done.returncode, done.stdout

    def ends(self, *options: str, **variables: str) -> str:
        """Run it to its good end, and return the output."""
        status, output = self.run(*options, **variables)
        assert status == 0, output
        return output

    def fails(self, *options: str, **variables: str) -> str:
        """Run it to a status of 1, without a traceback, and return the output."""
        status, output = self.run(*options, **variables)
        assert (status, "Traceback" in output) == (1, False), output
        return output

    def hanging(self) -> list[int]:
        """Wait until the stand-in hangs, and return the pids of it and of its child in a group of its own."""
        file = self.folder / "hanging"
        wait_until(lambda: file.exists() and bool(file.read_text()))
        pids: list[int] = json.loads(file.read_text())
        file.unlink()
        return pids


def make_project(folder: Path, templates: Path, forks: Forks) -> Project:
    """Make a project in an empty folder."""
    rdagent = folder / "rdagent"
    text = RDAGENT.format(steps=STEPS, templates=str(templates))
    rdagent.write_text(f"#!{sys.executable} -IS\n{text}")
    rdagent.chmod(0o755)
    write_command(folder)
    project = Project(folder, forks)
    project.workspace.mkdir(parents=True)
    write(factor_frame(), project.workspace)
    return project


def write_command(folder: Path) -> None:
    """Write the `rdagent-sota` of a project; anew where the project was moved."""
    (folder / "usage.py").write_text(USAGE)
    (folder / "run.py").write_text(RUN.format(rdagent=str(folder / "rdagent")))


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is true; fail after some seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def listen_to_signals() -> None:
    """Take signals as at a terminal; in the background, or under nohup, a process is started deaf to them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def kill(process: subprocess.Popen[Any], number: int = signal.SIGKILL) -> None:
    """Send a signal to that process alone."""
    os.kill(process.pid, number)


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sessions that the stand-in leaves."""
    return write_templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def project(tmp_path: Path, templates: Path, forks_of_rdagent: Forks) -> Project:
    """Return a project of two factor loops and two model loops."""
    return make_project(tmp_path, templates, forks_of_rdagent)
