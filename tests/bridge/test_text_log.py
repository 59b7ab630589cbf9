"""`log/latest.log`: the text log of real runs of RD-Agent's logger, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frames import NOBODY, public_folder

_STAMP = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{3}")

# The file that every run here executes; `caller` is where its messages come from.
_START = """\
import multiprocessing, os, sys
from pathlib import Path
from rdagent.log import rdagent_logger as logger

def caller(text, **options):
    logger.info(text, **options)

def store():
    # The first object that a run of RD-Agent stores.
    logger.log_object({}, tag="scenario")

def child(text):
    caller(text)
    with logger.tag("Loop_0.coding"):
        logger.log_object({"child": 1}, tag="child")
    caller(text + " again")

"""


def run(
    folder: Path, body: str, *, run_name: str = "run1", check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run RD-Agent's logger in a process, with `folder/log/<run_name>` as the run's folder."""
    script = folder / "story.py"
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    script.write_text(f'{_START}if __name__ == "__main__":\n{indented}', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={
            **os.environ,
            "LOG_TRACE_PATH": str(folder / "log" / run_name),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def text_log(folder: Path) -> str:
    """Return the text log, its time stamps replaced."""
    return _STAMP.sub("<time>", (folder / "log" / "latest.log").read_text(encoding="utf-8"))


CALLER_LINE = _START.splitlines().index("    logger.info(text, **options)") + 1
LINE = f"<time> | INFO     | __main__:caller:{CALLER_LINE} - "


def test_lines_reach_the_text_log(tmp_path: Path) -> None:
    """In order, before and after the run's first object, with level and real caller, as plain text.

    Colours stay on the console; pieces of a stream join, and a whole line begins on a line of its own. What
    RD-Agent logs of its settings has no key; limits of tokens stay.
    """
    settings = "openai_api_key='sk-1' HF_TOKEN='sk-2' password: 'sk-3' chat_token_limit=100 key='' text"
    body = (
        'caller("before")\nstore()\ncaller("因子 after")\n'
        'logger.warning("careful")\nlogger.error("bad\\nsecond line")\n'
        'caller("\\x1b[91m\\x1b[1mred\\x1b[0m \\x1b[38;5;12mblue\\x1b[K")\n'
        'for piece in ("one ", "\\x1b[92mtwo\\x1b[0m", "\\nthree"):\n'
        '    caller(piece, raw=True)\ncaller("whole")\ncaller("x\\n", raw=True)\ncaller("next")\n'
        f'caller("{settings}")'
    )
    done = run(tmp_path, body)
    below = len(_START.splitlines()) + 1
    masked = "openai_api_key='***' HF_TOKEN='***' password: '***' chat_token_limit=100 key='' text"
    assert text_log(tmp_path) == (
        f"{LINE}before\n{LINE}因子 after\n"
        f"<time> | WARNING  | __main__:<module>:{below + 4} - careful\n"
        f"<time> | ERROR    | __main__:<module>:{below + 5} - bad\nsecond line\n"
        f"{LINE}red blue\none two\nthree\n{LINE}whole\nx\n{LINE}next\n{LINE}{masked}\n"
    )
    assert "\x1b[91m" in done.stdout + done.stderr


def test_console_is_as_without_the_package(tmp_path: Path) -> None:
    """Both streams show the same lines and callers as RD-Agent alone, which writes no text log."""
    body = (
        'caller("one")\nlogger.warning("two")\nstore()\nlogger.error("three")\n'
        'caller("streamed ", raw=True)\ncaller("four")'
    )
    plain = run(tmp_path, body, run_name="run2", RDAGENT_SOTA_BRIDGE="0")
    assert not (tmp_path / "log" / "latest.log").exists()
    ours = run(tmp_path, body)
    assert (tmp_path / "log" / "latest.log").is_file()
    for mine, theirs in ((ours.stdout, plain.stdout), (ours.stderr, plain.stderr)):
        assert _STAMP.sub("<time>", mine) == _STAMP.sub("<time>", theirs)
    assert f"caller:{CALLER_LINE}" in ours.stdout + ours.stderr


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_no_run_leaves_it_alone(is_there: bool, tmp_path: Path) -> None:
    """A process that imports, logs, and stores its LLM settings (`rdagent ui`, `--help`) begins no run."""
    log = tmp_path / "log" / "latest.log"
    log.parent.mkdir()
    if is_there:
        log.write_text("precious\n")
    run(tmp_path, 'logger.log_object({}, tag="LITELLM_SETTINGS")\ncaller("x")\nlogger.log_object({})')
    assert (log.read_text() == "precious\n") if is_there else not log.exists()


def test_each_run_starts_it_anew(tmp_path: Path) -> None:
    """A link of that name is replaced by a file, and what it pointed to stays; the next run empties that."""
    log, precious = tmp_path / "log" / "latest.log", tmp_path / "precious.txt"
    log.parent.mkdir()
    precious.write_text("precious\n")
    log.symlink_to(precious)
    for number, text in enumerate(("the first run, which has the longer line", "second")):
        run(tmp_path, f'store()\ncaller("{text}")', run_name=f"run{number}")
        assert text_log(tmp_path) == f"{LINE}{text}\n"
    assert not log.is_symlink()
    assert precious.read_text() == "precious\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_process_goes_on_in_it(tmp_path: Path, method: str) -> None:
    """A process of the same run adds its lines and takes none away."""
    body = (
        'store()\ncaller("parent")\n'
        f'process = multiprocessing.get_context("{method}").Process(target=child, args=("child",))\n'
        'process.start()\nprocess.join()\nassert process.exitcode == 0\ncaller("parent again")'
    )
    run(tmp_path, body)
    in_child = LINE if method == "fork" else LINE.replace("__main__", "__mp_main__")
    assert text_log(tmp_path) == (
        f"{LINE}parent\n{in_child}child\n{in_child}child again\n{LINE}parent again\n"
    )


TROUBLES = {
    "a folder in its place": ("(log / 'latest.log').mkdir()", "Is a directory", None),
    "a read-only folder": (
        f"log.chmod(0o555)\nif os.geteuid() == 0: os.seteuid({NOBODY})",
        "Permission denied",
        None,
    ),
    "a disk that fills up": (
        "import resource, signal\nstore()\ncaller('x')\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\nstore = int",
        "File too large",
        f"{LINE}x\n",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_log_that_can_not_be_written(name: str) -> None:
    """It is said once on stderr, what was written stays, and the run stores its objects and ends well."""
    trouble, reason, left = TROUBLES[name]
    with public_folder() as folder:
        log = folder / "log"
        (log / "run1").mkdir(parents=True)
        (log / "run1").chmod(0o777)
        start = f"log = Path({str(log)!r})\n{trouble}\nstore()\n"
        # RD-Agent 1.0.0 signs what it stores; the key's file may be closed to the other user.
        done = run(
            folder, f'{start}caller("y")\ncaller("z")\nprint("at the end")', ARTIFACT_SIGNING_KEY="k" * 32
        )
        log.chmod(0o755)
        file = log / "latest.log"
        own = [line for line in done.stderr.splitlines() if line.startswith("rdagent-sota-bridge:")]
        assert own == [f"rdagent-sota-bridge: {file} can't be written ({reason}); the run goes on"]
        assert "at the end" in done.stdout
        assert len(list((log / "run1").rglob("*.pkl"))) == 1
        assert (text_log(folder) if file.is_file() else None) == left


def test_a_resumed_run_starts_it_in_its_first_step(tmp_path: Path) -> None:
    """A resumed run stores no scenario: what it stores inside a step begins it, with the lines before."""
    run(tmp_path, 'caller("early")\nwith logger.tag("Loop_1.coding"):\n    logger.log_object({}, tag="x")')
    assert "early" in (tmp_path / "log" / "latest.log").read_text()
