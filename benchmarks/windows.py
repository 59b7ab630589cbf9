"""The memory of windows by batch, beside Qlib's own loader: python benchmarks/windows.py

Builds Qlib's `TSDataSampler` of 15 million rows (`--rows`; 5,000 instruments, 4 columns of float32, windows
of 20 steps) as Qlib's `fit` does, gives it to a loader, lets go of it, and takes 200 shuffled batches of 256:
by 20 processes, as RD-Agent's YAML asks for, and from memory, each in a process of its own. Memory is the
most at a time of the process and its children; what they share counts in part (PSS).

What batches from memory hold beside the data and the weights is 16 bytes a row, the places of the windows,
whatever the steps: a window's rows are looked up by batch (a table of them all would take 80 bytes a row).
While the loader is made, the data is there twice; that is less than what building the sampler takes before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import memory

STEPS, INSTRUMENTS, COLUMNS, BATCHES = 20, 5000, 4, 200
WAYS = {"own": "RD-Agent's own way", "ours": "ours"}


def main() -> None:
    """Measure both ways, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=15_000_000)
    parser.add_argument("--part", choices=WAYS, help=argparse.SUPPRESS)  # what a process of its own is to do
    asked = parser.parse_args()
    if asked.part is not None:
        print(json.dumps(measure(asked.part, asked.rows // INSTRUMENTS)))
        return
    print(f"{asked.rows:,} rows x {COLUMNS} columns, {STEPS} steps")
    for way, name in WAYS.items():
        command = [sys.executable, str(Path(__file__).absolute()), "--rows", str(asked.rows), "--part", way]
        with tempfile.TemporaryDirectory(prefix="sota-benchmark-") as folder:
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:20}" + ", ".join(f"{phase} {peak / 1e9:.2f} GB" for phase, peak in found.items()))


def measure(way: str, days: int) -> dict[str, int]:
    """Return the bytes of memory by phase: the most while something is made, else what is held."""
    import numpy as np
    import pandas as pd
    from qlib.contrib.model import pytorch_general_nn
    from qlib.data.dataset import TSDataSampler
    from qlib.model.utils import ConcatDataset

    if way == "ours":
        sys.path.append(str(Path(__file__).parents[1] / "rdagent_sota_bridge" / "qlib_side"))
        import sota_batches  # noqa: F401 - it replaces the loader
    calendar = pd.bdate_range("2008-01-02", periods=days)
    codes = [f"SH{600000 + number}" for number in range(INSTRUMENTS)]
    index = pd.MultiIndex.from_product([calendar, codes], names=["datetime", "instrument"])
    frame = pd.DataFrame(np.ones((len(index), COLUMNS), np.float32), index)
    found = {"the rows": memory.memory(os.getpid())}
    with memory.watched(os.getpid()) as peaks:
        sampler = TSDataSampler(frame, calendar[0], calendar[-1], STEPS)
        del frame, index
    found["building"] = max(peaks)
    found["built"] = memory.memory(os.getpid())
    sampler.config(fillna_type="ffill+bfill")
    with memory.watched(os.getpid()) as peaks:
        data = ConcatDataset(sampler, np.ones(len(sampler)))
        loader = pytorch_general_nn.DataLoader(data, batch_size=256, shuffle=True, num_workers=20)
        del sampler, data
    found["the loader made"] = max(peaks)
    with memory.watched(os.getpid()) as peaks:
        for _ in itertools.islice(loader, BATCHES):
            pass
    found["batches"] = max(peaks)
    return found


if __name__ == "__main__":
    main()
