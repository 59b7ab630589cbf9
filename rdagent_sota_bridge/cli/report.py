"""The command `rdagent-sota report`: runs side by side, as a page or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from rdagent_sota_bridge.cli.output import check_target, echo, print_json, print_notes, unwritten
from rdagent_sota_bridge.cli.verify import named_logs
from rdagent_sota_bridge.report import gather, page, plain
from rdagent_sota_bridge.run import progress
from rdagent_sota_bridge.system.files import write_whole

_HEAD = 4096  # the line that says what made a page stands within so many bytes


def run(logs: Sequence[str], output: Path | None, as_json: bool) -> None:
    """Write the page of some runs, and print where, and what is missing; or print their figures.

    Args:
        logs: Log folders, or `latest` for the newest below `./log`; none is those of the newest job.
        output: The file; None is `report.html` in the current folder.
        as_json: Print JSON, and write no file.

    Raises:
        JobError: if the newest job has no log yet, or its state can't be read.
        SessionError: if a log can't be read.
        ReportError: if the file can't be written, or holds something else.
    """
    target = Path.cwd() / (output or Path("report.html")).expanduser()
    if not as_json:
        check(target)  # before a minute of work
    missing = "There is no log: latest names the newest below ./log"
    fix = "start in the project folder of a run, or name its log folder"
    found = gather.gather(named_logs(logs, progress.logs, lambda _: True, missing, fix))
    if as_json:
        print_json(plain.as_plain(found))
        return
    text = page.render(found)
    check(target)  # it may have come meanwhile
    try:
        write_whole(target.resolve(), text)
    except OSError as error:
        raise unwritten(target, error, "report") from None
    print_notes(found.notes)
    echo(f"{target} ({decimal(target.stat().st_size)})")


def check(target: Path) -> None:
    """Refuse a file that is there and no report of ours, and a place that can hold no file.

    Raises:
        ReportError: if it is one.
    """
    check_target(target, lambda file: page.GENERATOR.encode() in file.read(_HEAD), "report")
