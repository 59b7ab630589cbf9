"""Several processes that use one store at once."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.factor_set import panel, store
from rdagent_sota_bridge.factor_set.prune import prune
from tests.faults import elsewhere, survived
from tests.stored import days_ago, digest_of, longer, names_of, stored_names, unsorted_source, wanted_of


def keep_at_once(folder: str) -> list[Any]:
    """Let several processes keep one set and hand it out at once, several times; return what each got."""
    root = Path(folder)
    source = unsorted_source(root)
    wanted = wanted_of(source)
    seen = []
    for turn in range(4):
        place = root / f"store{turn}"
        if turn == 3:  # of a copy that was spoilt
            survived(lambda place=place: store.keep(wanted, place).rows)
            longer(place / names_of(wanted)[1])
        gate_read, gate_write = os.pipe()
        receive, send = os.pipe()
        children = []
        for number in range(5):
            child = os.fork()
            if child == 0:
                os.close(gate_write)
                os.read(gate_read, 1)  # until all are there, and the gate is closed
                target = root / f"workspace{turn}-{number}.parquet"
                try:
                    stored = store.keep(wanted, place)
                    store.hand_out(stored, target, link=True)
                    answer = [stored.written.isoformat(), stored.identity[2], digest_of(target), stored.note]
                except BaseException:
                    answer = [traceback.format_exc()]
                os.write(send, json.dumps(answer).encode() + b"\n")
                os._exit(0)
            children.append(child)
        os.close(gate_read)
        os.close(send)
        os.close(gate_write)
        for child in children:
            os.waitpid(child, 0)
        with os.fdopen(receive) as lines:
            seen.append([json.loads(line) for line in lines])
        assert stored_names(place) == names_of(wanted)
    return seen


def test_several_at_once(tmp_path: Path) -> None:
    """Of five runs that start at once on a set one writes it, and notes a spoilt one; all get its file."""
    turns = elsewhere(keep_at_once, tmp_path)
    assert len(turns) == 4
    for number, seen in enumerate(turns):
        assert [len(answer) for answer in seen] == [4] * 5, seen
        assert len({tuple(answer[:3]) for answer in seen}) == 1
        assert sum(bool(answer[3]) for answer in seen) == (1 if number == 3 else 0)


def keep_while_another_writes(folder: str) -> list[Any]:
    """Let a process hold the lock and be killed while another one waits; return what the other got."""
    root = Path(folder)
    source, place = unsorted_source(root), root / "store"
    wanted = wanted_of(source)
    receive, send = os.pipe()
    holder = os.fork()
    if holder == 0:

        def stay(*_: Any) -> None:
            os.write(send, b"x")
            time.sleep(600)

        panel.write_normal = stay  # it has the lock, and has begun to write
        store.keep(wanted, place)
    os.read(receive, 1)
    waiting_read, waiting_write = os.pipe()
    waiter = os.fork()
    if waiter == 0:
        stored = store.keep(wanted, place)
        os.write(waiting_write, json.dumps([stored.note, digest_of(stored.path)]).encode())
        os._exit(0)
    time.sleep(0.3)
    waited = os.waitpid(waiter, os.WNOHANG) == (0, 0)
    left = stored_names(place)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    status = os.waitpid(waiter, 0)[1]
    return [waited, len(left), status, *json.loads(os.read(waiting_read, 1000)), stored_names(place)]


def test_killed_while_it_holds_the_lock(tmp_path: Path) -> None:
    """A run that waits for one that is writing takes over when that is killed, and removes what it left."""
    waited, left, status, note, content, names = elsewhere(keep_while_another_writes, tmp_path)
    assert (waited, left, status, note) == (True, 1, 0, "")
    stem = names[0].removesuffix(".json")
    assert names == [f"{stem}.json", f"{stem}.parquet"]
    assert content == digest_of(tmp_path / "store" / f"{stem}.parquet")


def test_prune_waits_for_a_run_that_writes(tmp_path: Path) -> None:
    """The lock of a set is taken before anything of it is removed, and its temporary files then stand."""
    assert elsewhere(prune_while_another_writes, tmp_path) == [True, True, [], 2]


def prune_while_another_writes(folder: str) -> list[Any]:
    """Prune while another process is writing a set; return whether both waited and worked."""
    root = Path(folder)
    source, place = unsorted_source(root), root / "store"
    wanted = wanted_of(source)
    receive, send = os.pipe()
    go_read, go_write = os.pipe()
    writer = os.fork()
    if writer == 0:
        write_normal = panel.write_normal

        def slowly(*arguments: Any) -> None:
            os.write(send, b"x")
            os.read(go_read, 1)
            write_normal(*arguments)

        panel.write_normal = slowly
        store.keep(wanted, place)
        os._exit(0)
    os.read(receive, 1)
    pruner = os.fork()
    if pruner == 0:
        prune(place, days_ago(1), dry_run=False)
        os._exit(0)
    time.sleep(0.3)
    waits = os.waitpid(pruner, os.WNOHANG) == (0, 0)
    os.write(go_write, b"x")
    worked = [os.waitpid(child, 0)[1] for child in (writer, pruner)] == [0, 0]
    return [waits, worked, store.entries(place)[1], len(stored_names(place))]
