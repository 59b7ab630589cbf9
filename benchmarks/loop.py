"""What a whole model loop costs, RD-Agent's own way beside ours, by phase: python benchmarks/loop.py

Writes a market and a set of 10 factors at the demo's scale (60 instruments, every seventh weekday) and at
CSI300's (300 instruments, every weekday from 2008 to September 2020: 985,000 rows of them in the segments),
and runs `QlibModelRunner.develop` to its end, without an LLM: with the 20 base features that RD-Agent 1.0.0
takes, 30 columns in all, for the demo's network of each model type (Tabular: an MLP of 32 units; TimeSeries:
a GRU of 16 over 20 steps), in batches of 256.

- RD-Agent's own way: this package switched off. RD-Agent merges the factors, and 20 processes fetch rows;
- ours: the set is handed over from the store, and batches come from memory (`SOTA_FAST_TRAINING`).

Both train from the same seed, and the benchmark stops where their predictions are not equal to the bit. Each
loop is that of a process of its own, alternately, `--repeats` times; the figures are medians. The phases:

- hand-over: what `develop` does but for the two commands it starts: RD-Agent's merge, or our hand-off;
- start: qrun's imports, its start of Qlib, and what Qlib saves between the phases;
- data set, training, prediction, analysis, back-test: Qlib's, in qrun;
- read-back: RD-Agent's `read_exp_res.py`, and with it what this package reads of what Qlib loaded.

Memory is the most that RD-Agent's process and all that it starts have at a time; what they share counts in
part (PSS). The building of the runner is not timed (`handoff.py` does that), but its memory counts.

Measure alone: trainings at once on few cores make torch's threads wait for each other in loops that burn
processors (2.7 seconds of processors became 70; `OMP_WAIT_POLICY=passive` in the environment saves most of
that, and changes what is measured). `--picture FILE` draws the phases.

Measured, and left out:

- A cache of the data set that Qlib builds: saves 9 of a loop's 58 seconds at CSI300's scale, and costs 693 MB
  of disk for each set and a key that has to know all that the data set depends on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handoff
import memory
import qrun
from handoff import OURS, OWN

sys.path.append(str(Path(__file__).parents[1]))
from examples.demo import sandbox, script
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import batches

WAYS = (OWN, OURS)
FACTORS = 10
PHASES = (
    "hand-over", "start", "data set", "training", "prediction", "analysis", "back-test", "read-back",
)  # fmt: skip
NAMES = {"demo": "demo", "csi300": "CSI300", "Tabular": "MLP", "TimeSeries": "GRU"}
RACE = "' is malformed"  # Qlib's logging race, of which qrun may die
SEGMENTS = {
    "QLIB_MODEL_TRAIN_START": "2008-01-01",
    "QLIB_MODEL_TRAIN_END": "2014-12-31",
    "QLIB_MODEL_VALID_START": "2015-01-01",
    "QLIB_MODEL_VALID_END": "2016-12-31",
    "QLIB_MODEL_TEST_START": "2017-01-01",
    "QLIB_MODEL_TEST_END": "2020-08-01",
}

MODELS = {"Tabular": script.SMALL_MLP.code, "TimeSeries": script.SMALL_GRU.code}
SEED = "import torch\n\ntorch.manual_seed(0)  # RD-Agent gives Qlib no seed\n"


@dataclass(frozen=True)
class Scale:
    """A market's size, and the epochs of each model type."""

    width: int
    weekdays: int
    epochs: dict[str, int]


SCALES = {
    "demo": Scale(60, 7, {"Tabular": 3, "TimeSeries": 3}),
    "csi300": Scale(300, 1, {"Tabular": 2, "TimeSeries": 1}),
}


@dataclass(frozen=True)
class Loop:
    """What one loop took: of each phase the seconds and those of processors; and its peak of memory."""

    phases: dict[str, tuple[float, float]]
    predictions: str
    peak: int


@dataclass(frozen=True)
class Case:
    """The loops of a scale and a model type, by way."""

    scale: str
    kind: str
    epochs: int
    loops: dict[str, list[Loop]]

    def __str__(self) -> str:
        plural = "" if self.epochs == 1 else "s"
        return f"{NAMES[self.scale]}, {NAMES[self.kind]}, {self.epochs} epoch{plural}"

    def seconds(self, way: str, column: int, *phases: str) -> float:
        """Return the sum of phases' medians (all if none is named): seconds (0), or processors' (1)."""
        return sum(
            statistics.median(loop.phases[name][column] for loop in self.loops[way])
            for name in phases or PHASES
        )

    def peak(self, way: str) -> float:
        """Return the gigabytes of memory."""
        return statistics.median(loop.peak for loop in self.loops[way]) / 1e9


def main() -> None:
    """Measure every case, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", nargs="+", choices=SCALES, default=list(SCALES))
    parser.add_argument("--epochs", type=int, help="in place of each case's own")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the data in this folder, or use what is there")
    parser.add_argument("--picture", type=Path, help="draw the phases into this PNG file")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)  # what a process of its own is to do
    asked = parser.parse_args()
    if asked.part is not None:
        do_part(asked.folder, *asked.part)
        return
    print(handoff.machine())
    cases = []
    for scale in asked.scales:
        with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as temporary:
            folder = (asked.folder or Path(temporary)).absolute() / scale
            prepare(folder, scale)
            for kind, epochs in SCALES[scale].epochs.items():
                cases.append(measure(folder, scale, kind, asked.epochs or epochs, asked.repeats))
                report(cases[-1])
            shutil.rmtree(folder / "project", ignore_errors=True)
    report_rows(cases)
    if asked.picture is not None:
        draw(cases, asked.picture)


def prepare(folder: Path, scale: str) -> None:
    """Write the data of one scale where it is not there, and the stand-ins for conda and qrun."""
    box = sandbox.create(folder)
    script = Path(qrun.__file__).absolute()
    (box.bin / "qrun").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    if not (folder / "written").is_file():
        in_own_process(folder, "", "write", scale)
        (folder / "written").touch()


def measure(folder: Path, scale: str, kind: str, epochs: int, repeats: int) -> Case:
    """Run the loops of both ways, and see that they predict the same."""
    loops: dict[str, list[Loop]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            for _ in range(3):
                shutil.rmtree(folder / "project", ignore_errors=True)
                found, peak = in_own_process(folder, way, way, kind, str(epochs))
                if found is not None:
                    break
                print("qrun died of Qlib's logging race; the loop is measured anew", flush=True)
            else:
                sys.exit("qrun died of Qlib's logging race three times")
            loops[way].append(Loop(peak=peak, **found))
    if len({loop.predictions for found in loops.values() for loop in found}) != 1:
        sys.exit(f"{scale}, {kind}: the loops' predictions differ")
    return Case(scale, kind, epochs, loops)


def in_own_process(folder: Path, way: str, *part: str) -> tuple[Any, int]:
    """Do a part in a process of its own; return what it found, and its peak of memory with its children."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    os.sync()  # what was written before is not to be paid for here
    box = sandbox.Sandbox(folder, Path(sys.executable).absolute(), Path(sys.executable).absolute())
    environment = {
        **handoff.environment(way, folder),
        **SEGMENTS,
        "PATH": box.path(box.python),
        "ALPHA_FACTORS": "alpha20",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).absolute()), "--folder", str(folder), "--part", *part],
            env=environment,
            cwd=project,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        with memory.watched(process.pid) as peaks:
            process.wait()
    if process.returncode:
        sys.exit(f"{' '.join(part)}:\n{output.read_text()}")
    return json.loads(output.read_text().splitlines()[-1]), max(peaks)


# --- the report ---


def report(case: Case) -> None:
    """Print the phases of a case."""
    print(f"\n{case}: wall seconds (processors' seconds)\n{'':12}{OWN:>22}{'ours':>18}")
    for name in (*PHASES, "loop"):
        cells = []
        for way in WAYS:
            wall, busy = (case.seconds(way, column, *([name] if name in PHASES else [])) for column in (0, 1))
            cells.append(f"{wall:.2f} ({busy:.2f})")
        print(f"{name:12}{cells[0]:>22}{cells[1]:>18}")
    own, ours = case.peak(OWN), case.peak(OURS)
    print(
        f"memory: {own:.2f} GB, ours {ours:.2f} GB: {100 * (ours / own - 1):+.0f} % (limit +10)", flush=True
    )


def report_rows(cases: list[Case]) -> None:
    """Print the rows of the table in docs/how-it-works.md."""
    print("\nthe predictions of both ways are equal to the bit\n")
    for case in cases:
        cells = [str(case)]
        for column, phases in ((0, ()), (0, ("training", "prediction")), (1, ())):
            own, ours = (case.seconds(way, column, *phases) for way in WAYS)
            cells.append(f"{own:.1f} → {ours:.1f} s ({own / ours:.1f})")
        cells.append(f"{case.peak(OWN):.1f} → {case.peak(OURS):.1f} GB")
        print(f"| {' | '.join(cells)} |")


def draw(cases: list[Case], picture: Path) -> None:
    """Draw the phases: two bars a case, beside each other the seconds and those of processors."""
    from matplotlib import figure

    drawn = figure.Figure(figsize=(12, 1.2 + 0.9 * len(cases)), dpi=100, layout="constrained")
    for column, axes in enumerate(drawn.subplots(1, 2, sharey=True)):
        bars = [(case, way) for case in cases for way in WAYS]
        places = [2.6 * (place // 2) + place % 2 for place in range(len(bars))]
        left = [0.0] * len(bars)
        for number, name in enumerate(PHASES):
            widths = [case.seconds(way, column, name) for case, way in bars]
            axes.barh(places, widths, left=left, height=0.9, color=f"C{number}", label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.bar_label(axes.containers[-1], [f"{end:.0f} s" for end in left], padding=3)
        axes.set(title=("wall seconds", "processors' seconds")[column], xlim=(0, 1.12 * max(left)))
        axes.set_yticks(places, [f"{case}\n{way}" if way == OWN else way for case, way in bars])
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(PHASES))
    drawn.savefig(picture)


# --- in processes of their own ---


def do_part(folder: Path, part: str, *words: str) -> None:
    """Do what `in_own_process` was asked for, and print what was found as JSON in the last line."""
    if part == "write":
        write(folder, SCALES[words[0]])
    found = run_loop(folder, part, words[0], int(words[1])) if part in WAYS else None
    print(f"\n{json.dumps(found)}")


def write(folder: Path, scale: Scale) -> None:
    """Write a market of the demo's kind, and a set: the demo's factor, and nine that know nothing."""
    import numpy as np
    import pandas as pd

    from examples.demo import market

    provider = folder / "home" / ".qlib" / "qlib_data" / "cn_data"
    factors = market.gap_factor(market.write_market(provider, width=scale.width, weekdays=scale.weekdays))
    random = np.random.default_rng(0)
    for number in range(1, FACTORS):
        factors[f"factor_{number}"] = random.standard_normal(len(factors))
    factors.columns = pd.MultiIndex.from_product([["feature"], factors.columns])
    (folder / handoff.SORTED).mkdir(exist_ok=True)
    factors.to_parquet(folder / handoff.SORTED / FACTOR_FILE)


def run_loop(folder: Path, way: str, kind: str, epochs: int) -> dict[str, Any] | None:
    """Run a model loop; return seconds by phase and a digest of the predictions, None after the race."""
    import pandas as pd
    from rdagent.core.exception import ModelEmptyError
    from rdagent.scenarios.qlib.developer import model_runner
    from rdagent.utils.env import QlibCondaEnv

    if way == OWN:
        model_runner.process_factor_data = lambda _: handoff.flat(folder / handoff.SORTED / FACTOR_FILE)
    runner = model_runner.QlibModelRunner(None)
    training = {"n_epochs": epochs, "early_stop": 100, "lr": 1e-3, "batch_size": 256, "weight_decay": 1e-4}
    model = handoff.model_experiment(SEED + MODELS[kind], kind, training)
    if way == OWN:
        model.based_experiments = handoff.factor_experiments()
    workspace = Path(model.experiment_workspace.workspace_path)

    commands: list[tuple[float, float]] = []
    before = QlibCondaEnv.check_output

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = qrun.spent()
        output = before(*args, **kwargs)
        commands.append(since(start))
        return output

    QlibCondaEnv.check_output = timed
    start = qrun.spent()
    try:
        runner.develop(model)
    except ModelEmptyError as error:
        if RACE in str(error):
            return None
        raise
    whole = since(start)
    if len(commands) != 2:  # this package has run qrun once more
        return None
    phases = {name: tuple(took) for name, took in json.loads((workspace / qrun.FILE).read_text()).items()}
    phases["start"] = minus(commands[0], *phases.values())
    phases["hand-over"] = minus(whole, *commands)
    phases["read-back"] = commands[1]
    if way == OURS and batches.answer(workspace) != batches.MEMORY:
        sys.exit(f"no batches from memory: {batches.answer(workspace)}")
    (file,) = workspace.glob("mlruns/*/*/artifacts/pred.pkl")
    predictions = pd.read_pickle(file).sort_index()
    digest = hashlib.sha256(pd.util.hash_pandas_object(predictions).to_numpy().tobytes()).hexdigest()
    return {"phases": phases, "predictions": digest}


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds, and those of processors, since a time."""
    return minus(qrun.spent(), start)


def minus(whole: tuple[float, float], *parts: tuple[float, float]) -> tuple[float, float]:
    """Return what is left of seconds and processors' seconds."""
    return whole[0] - sum(part[0] for part in parts), whole[1] - sum(part[1] for part in parts)


if __name__ == "__main__":
    main()
