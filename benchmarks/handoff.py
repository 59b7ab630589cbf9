"""What handing a factor set to a model costs, beside RD-Agent's own way: python benchmarks/handoff.py

Writes factor sets of 1, 5.4 and 20 million rows of 30 factors, each with a Qlib data folder, into a
temporary folder (`--folder` keeps them), and runs `QlibModelRunner.develop` of RD-Agent up to where it would
start Qlib:

- without factors: what a loop costs anyway;
- in RD-Agent's own way: pandas reads the set, RD-Agent sorts, copies and writes it (not from `--alone-from`
  rows on: 20 million take more than 20 GB of memory there);
- in ours, with a set in the order that RD-Agent writes; the first loop is that of a run whose set is not in
  the store yet, with the building of the runner, which writes the copy into the store;
- in ours, resumed: in a process that finds the set in the store, and reads it once to see that it is as it
  was;
- in ours, with a set whose rows are in no order (beside RD-Agent's own way alone).

Each is measured in a process of its own, alternately, `--repeats` times; what counts is the ratio of the
medians, for machines differ and are noisy. What the check of a set costs is not in it (`check.py` measures
that): all sets were looked at before. Memory is the peak of the process; beside it, what is beyond a process
without factors. Disk is what the files in the model's workspace take that are no links to one elsewhere, so
where a file system clones files, a clone counts in full.

`--rows 1000000` is a quick run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from data import FACTORS, SEGMENTS, Panel, panel_of, write_factors, write_market

from rdagent_sota_bridge.factor_set.names import FACTOR_FILE

ROWS = (1_000_000, 5_400_000, 20_000_000)
WITHOUT, OWN, OURS, RESUMED, UNORDERED = (
    "without factors",
    "RD-Agent's own way",
    "ours",
    "ours, resumed",
    "ours, unordered",
)
LATER_LOOPS = {WITHOUT: 20, OWN: 1, OURS: 20, RESUMED: 20, UNORDERED: 5}
SORTED, SHUFFLED = "sorted", "shuffled"
# What the user has set must not decide what is measured.
SETTINGS = ("SOTA_", "LOAD_SOTA", "ALPHA_", "USE_ALPHA", "RDAGENT_", "WORKSPACE_", "QLIB_", "MODEL_CoSTEER_")


@dataclass(frozen=True)
class Figures:
    """What one process measured: seconds, bytes of memory at its peak, and the last loop's new files."""

    built: float
    loops: list[float]
    first_peak: int
    peak: int
    disk: int
    links: int

    @property
    def first(self) -> float:
        """Seconds of the first loop, with the runner."""
        return self.built + self.loops[0]


def main() -> None:
    """Measure every size, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone-from", type=int, default=10_000_000, help="ours alone from these rows on")
    parser.add_argument("--folder", type=Path, help="keep the data in this folder, or use what is there")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a process of its own is to do
    asked = parser.parse_args()
    if asked.part is not None:
        do_part(asked.part, asked.folder, panel_of(asked.rows[0]))
        return
    print(machine())
    growth = []
    for rows in asked.rows:
        with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as temporary:
            folder = (asked.folder or Path(temporary)).absolute() / str(rows)
            growth.append(measure_size(folder, rows, asked.repeats, with_own=rows < asked.alone_from))
    if len(growth) > 1:
        print(
            f"\nmemory of later loops, {asked.rows[-1]:,} rows against {asked.rows[0]:,}: "
            f"{(growth[-1] - growth[0]) / 1e6:+.0f} MB (limit 30)"
        )


def measure_size(folder: Path, rows: int, repeats: int, *, with_own: bool) -> float:
    """Measure a set of one size, print the figures, and return the bytes of memory beyond no factors."""
    prepare(folder, rows, shuffled=with_own)
    kinds = list(LATER_LOOPS) if with_own else [WITHOUT, OURS, RESUMED]
    found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            if kind != RESUMED:  # which finds what the one before it has put into the store
                shutil.rmtree(folder / "project", ignore_errors=True)
            found[kind].append(Figures(**in_own_process(kind, folder, rows)))
    shutil.rmtree(folder / "project")
    report(rows, folder, found)
    return beyond(found, RESUMED, "peak")


def prepare(folder: Path, rows: int, *, shuffled: bool) -> None:
    """Write the data of one size where it is not there, and look at the sets, so that they are known."""
    # In a process of its own: on Linux, a process's peak of memory counts for its later children too.
    for part in (f"write {SORTED}", *([f"write {SHUFFLED}"] if shuffled else []), "write market"):
        if not (folder / part.replace(" ", "-")).is_file():
            in_own_process(part, folder, rows)
            (folder / part.replace(" ", "-")).touch()
    time.sleep(2.1)  # the digest of a file that was written just now is not remembered
    for kind in (OURS, *([UNORDERED] if shuffled else [])):
        in_own_process(f"look {kind}", folder, rows)


def in_own_process(part: str, folder: Path, rows: int) -> Any:
    """Do a part in a process of its own, and return what it found."""
    project = folder / "project"
    project.mkdir(parents=True, exist_ok=True)
    os.sync()  # what was written before is not to be paid for here
    command = [sys.executable, Path(__file__).absolute(), "--part", part]
    done = subprocess.run(
        [*command, "--folder", folder, "--rows", str(rows)],
        env=environment(part, folder),
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{part}, {rows:,} rows:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def environment(part: str, folder: Path) -> dict[str, str]:
    """Return the environment of a part."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    variables |= {
        **SEGMENTS,
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "ARTIFACT_SIGNING_KEY_PATH": str(folder / "signing.key"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    if part == OWN:
        variables["RDAGENT_SOTA_BRIDGE"] = "off"
    elif part.startswith("look ") or part in (OURS, RESUMED, UNORDERED):
        order = SHUFFLED if part.endswith(UNORDERED) else SORTED
        variables |= {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": str(folder / order)}
    return variables


# --- the report ---


def report(rows: int, folder: Path, found: dict[str, list[Figures]]) -> None:
    """Print the table of one size, the ratios, and each target with its limit."""
    size = (folder / SORTED / FACTOR_FILE).stat().st_size
    print(f"\n{panel_of(rows).rows:,} rows x {FACTORS} factors, {size / 1e9:.2f} GB")
    heads = f"{'':20}{'first loop':>11} {'(from - to)':21}{'later':>9}{'(longest)':>11}"
    print(f"{heads}{'memory':>10}{'beyond':>11}  disk a loop")
    for kind, figures in found.items():
        first, seconds = [one.first for one in figures], later(figures)
        spread = f"({span(min(first))} - {span(max(first))})"
        longest = f"({span(max(seconds))})"
        memory = statistics.median(one.peak for one in figures)
        more = beyond(found, kind, "peak")
        disk = f"{figures[-1].disk / 1e6:,.0f} MB" + (", 1 link" if figures[-1].links == 1 else "")
        print(
            f"{kind:20}{span(statistics.median(first)):>11} {spread:21}{span(statistics.median(seconds)):>9}"
            f"{longest:>11}{memory / 1e9:>7.2f} GB{more / 1e6:>+8.0f} MB  {disk}"
        )
    ours = [kind for kind in (OURS, RESUMED, UNORDERED) if kind in found]
    for kind in ours:
        built = statistics.median(one.built for one in found[kind])
        loop = statistics.median(one.loops[0] for one in found[kind])
        print(f"first loop, {kind}: the runner with the store {span(built)}, develop {span(loop)}")
    if OWN in found:
        first = statistics.median(one.first for one in found[OWN])
        for kind in (OURS, UNORDERED):
            ratio = first / statistics.median(one.first for one in found[kind])
            limit = " (limit 1)" if kind == OURS else ""
            print(f"first loop, RD-Agent's own way / {kind}: {ratio:.2f}{limit}")
        loops = statistics.median(later(found[OWN])) / statistics.median(later(found[OURS]))
        print(f"later loops, RD-Agent's own way / ours: {loops:,.0f} (limit 300, at 5.4 million rows)")
    more = statistics.median(later(found[OURS])) - statistics.median(later(found[WITHOUT]))
    print(f"later loops beyond develop without factors: {1000 * more:.1f} ms (limit 20)")
    print(f"memory of later loops beyond that: {beyond(found, RESUMED, 'peak') / 1e6:.0f} MB (limit 30)")
    taken, links = found[OURS][-1].disk - found[WITHOUT][-1].disk, found[OURS][-1].links
    print(f"disk of a loop: {taken:,} bytes and {links} link (limit 0 and 1)")
    for kind in ours:
        peak = statistics.median(one.first_peak for one in found[kind]) / 1e9
        limit = " (limit 1)" if kind == OURS else ""
        print(
            f"memory of the first loop, {kind}: {peak:.2f} GB{limit}, "
            f"{beyond(found, kind, 'first_peak') / 1e9:.2f} GB beyond develop without factors"
        )


def later(figures: list[Figures]) -> list[float]:
    """Return the seconds of all loops after the first."""
    return [seconds for one in figures for seconds in one.loops[1:]]


def beyond(found: dict[str, list[Figures]], kind: str, name: str) -> float:
    """Return the median bytes of memory beyond those of a process without factors."""
    with_factors, without = (
        statistics.median(asdict(one)[name] for one in found[which]) for which in (kind, WITHOUT)
    )
    return with_factors - without


def span(seconds: float) -> str:
    """Return a time for people."""
    return f"{seconds:.2f} s" if seconds >= 0.5 else f"{1000 * seconds:.1f} ms"


def machine() -> str:
    """Return what the figures depend on."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("rdagent", "pandas", "pyarrow"))
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
        f"Python {platform.python_version()}, {versions}"
    )


# --- in processes of their own ---


def do_part(part: str, folder: Path, panel: Panel) -> None:
    """Do what `in_own_process` was asked for, and print what was found as JSON in the last line."""
    found: Any = None
    if part == "write market":
        write_market(folder / "home" / ".qlib" / "qlib_data" / "cn_data", panel)
    elif part.startswith("write "):
        order = part.removeprefix("write ")
        write_factors(folder / order / FACTOR_FILE, panel, shuffled=order == SHUFFLED)
    elif part.startswith("look "):
        look(normal_form=not part.endswith(UNORDERED))
    else:
        found = asdict(measure_loops(part, folder))
    print(f"\n{json.dumps(found)}")


def look(*, normal_form: bool) -> None:
    """Check the set of the settings, so that it is known, and see that it is in normal form, or is not."""
    from rdagent_sota_bridge import settings
    from rdagent_sota_bridge.bridge import dry_run
    from rdagent_sota_bridge.check import inspect as inspection
    from rdagent_sota_bridge.factor_set import locate, panel

    asked = settings.read_settings()
    located = locate.factor_sets(asked.workspace_paths, asked.log_paths)
    found = inspection.inspect(asked, dry_run.of_models().start, located)
    found.raise_failures()
    with panel.opened([at.path for at in found.located]) as opened:
        if panel.is_normal(opened) != normal_form:
            sys.exit(f"{opened.files[0].path} is not in the form that it was written in")


def measure_loops(kind: str, folder: Path) -> Figures:
    """Build RD-Agent's runner and run its `develop` several times."""
    from rdagent.scenarios.qlib.developer import model_runner

    from rdagent_sota_bridge.bridge import seams
    from rdagent_sota_bridge.check import inspect as inspection

    del inspection  # imported, that it may count for no way alone
    if kind == OWN:
        model_runner.process_factor_data = lambda _: flat(folder / SORTED / FACTOR_FILE)
    elif not seams.is_applied("runner"):
        sys.exit("rdagent-sota-bridge is not installed in this environment with its start file")
    start = time.perf_counter()
    runner = model_runner.QlibModelRunner(None)
    built = time.perf_counter() - start
    loops, first_peak, disk, links = [], 0, 0, 0
    for _ in range(1 + LATER_LOOPS[kind]):
        model = model_experiment()
        if kind == OWN:
            model.based_experiments = factor_experiments()
        workspace = Path(model.experiment_workspace.workspace_path)
        before = set(files_in(workspace))
        loops.append(seconds_of_develop(runner, model))
        first_peak = first_peak or peak_memory()
        if (workspace / FACTOR_FILE).is_file() != (kind != WITHOUT):
            sys.exit(f"{workspace / FACTOR_FILE} is there without factors, or not there with them")
        new = [file.stat() for file in files_in(workspace) if file not in before]
        disk = sum(512 * status.st_blocks for status in new if status.st_nlink == 1)
        links = sum(status.st_nlink > 1 for status in new)
    return Figures(built, loops, first_peak, peak_memory(), disk, links)


def factor_experiments() -> list[Any]:
    """Return what lets RD-Agent merge factors before a training in its own way."""
    from rdagent_sota_bridge.bridge import experiment

    record = {"path": "", "digest": "", "columns": [], "metrics": {}}
    return [experiment.base_experiment(), experiment.synthetic_experiment(record, "")]


def flat(file: Path) -> Any:
    """Return a factor set as a plain frame with flat columns, as RD-Agent's `process_factor_data` does."""
    import pandas as pd

    frame = pd.read_parquet(file)
    frame.columns = frame.columns.get_level_values(1)
    return frame


class QlibReachedError(Exception):
    """In place of Qlib's start."""


def seconds_of_develop(runner: Any, model: Any) -> float:
    """Run `develop` up to where it would start Qlib."""
    from rdagent.scenarios.qlib.experiment import workspace

    reached = []

    def reach() -> None:
        reached.append(time.perf_counter())
        raise QlibReachedError

    workspace.QlibCondaConf = reach
    start = time.perf_counter()
    try:
        runner.develop(model)
    except QlibReachedError:
        return reached[0] - start
    sys.exit("RD-Agent developed a model without Qlib")


def model_experiment(
    code: str = "model_cls = None", kind: str = "Tabular", training: dict[str, Any] | None = None
) -> Any:
    """Return a model experiment.

    Args:
        code: The model's code.
        kind: The model's type.
        training: The hyperparameters of its training.
    """
    from rdagent.components.coder.model_coder.model import ModelFBWorkspace, ModelTask
    from rdagent.scenarios.qlib.experiment.model_experiment import QlibModelExperiment

    texts = dict.fromkeys(("description", "architecture", "formulation"), "")
    tables = {"hyperparameters": {}, "training_hyperparameters": training or {}, "variables": {}}
    task = ModelTask(name="Model", **texts, **tables, model_type=kind)
    experiment = QlibModelExperiment([task])
    experiment.based_experiments = []
    experiment.sub_workspace_list[0] = ModelFBWorkspace(target_task=task)
    experiment.sub_workspace_list[0].inject_files(**{"model.py": code})
    if hasattr(experiment, "base_features"):  # not in 0.8.0
        from rdagent.utils.qlib import ALPHA20

        experiment.base_features = ALPHA20
    return experiment


def files_in(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder."""
    return (file for file in folder.rglob("*") if file.is_file())


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
