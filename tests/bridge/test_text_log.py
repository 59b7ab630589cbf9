"""`log/latest.log`: the text log of real runs of RD-Agent's logger, each in a fork that imports it anew."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.forking import Forks
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


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def script_in(folder: Path, body: str) -> Path:
    """Write the file of a run, and return it."""
    script = folder / "story.py"
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    script.write_text(f'{_START}if __name__ == "__main__":\n{indented}', encoding="utf-8")
    return script


@pytest.fixture
def run(forks_of_rdagent: Forks) -> Run:
    """Return what runs RD-Agent's logger, with `folder/log/<run_name>` as the run's folder."""

    def run(
        folder: Path, body: str, *, run_name: str = "run1", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        # A file that is `__main__`, which a process that is spawned imports as `__mp_main__`.
        code = f"import runpy; runpy.run_path({str(script_in(folder, body))!r}, run_name='__main__')"
        variables["LOG_TRACE_PATH"] = str(folder / "log" / run_name)
        done = forks_of_rdagent.run(code, folder=folder, **variables)
        assert done.returncode == 0, done.stderr
        return done

    return run


def text_log(folder: Path, run_name: str = "run1", *, at: str = "") -> str:
    """Return the text log, in `log` or `at` below it, without its first line, and its stamps replaced."""
    mark, _, text = (folder / "log" / at / "latest.log").read_text(encoding="utf-8").partition("\n")
    assert mark == f"# rdagent-sota-bridge: text log of {folder / 'log' / run_name}"
    return _STAMP.sub("<time>", text)


CALLER_LINE = _START.splitlines().index("    logger.info(text, **options)") + 1
LINE = f"<time> | INFO     | __main__:caller:{CALLER_LINE} - "


def test_lines_reach_the_text_log(tmp_path: Path, run: Run) -> None:
    """In order, before and after the run's first object, with level and real caller, as plain text.

    Colours stay on the console; pieces of a stream join, and a whole line begins on a line of its own.
    """
    body = (
        'caller("before")\nstore()\ncaller("因子 after")\n'
        'logger.warning("careful")\nlogger.error("bad\\nsecond line")\n'
        'caller("\\x1b[91m\\x1b[1mred\\x1b[0m \\x1b[38;5;12mblue\\x1b[K")\n'
        'for piece in ("one ", "\\x1b[92mtwo\\x1b[0m", "\\nthree"):\n'
        '    caller(piece, raw=True)\ncaller("whole")\ncaller("x\\n", raw=True)\ncaller("next")'
    )
    done = run(tmp_path, body)
    below = len(_START.splitlines()) + 1
    assert text_log(tmp_path) == (
        f"{LINE}before\n{LINE}因子 after\n"
        f"<time> | WARNING  | __main__:<module>:{below + 4} - careful\n"
        f"<time> | ERROR    | __main__:<module>:{below + 5} - bad\nsecond line\n"
        f"{LINE}red blue\none two\nthree\n{LINE}whole\nx\n{LINE}next\n"
    )
    assert "\x1b[91m" in done.stdout + done.stderr


def test_console_is_as_without_the_package(tmp_path: Path, run: Run) -> None:
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
def test_what_is_no_run_leaves_it_alone(is_there: bool, tmp_path: Path, run: Run) -> None:
    """A process that imports, logs, and stores its LLM settings (`rdagent ui`, `--help`) begins no run."""
    log = tmp_path / "log" / "latest.log"
    log.parent.mkdir()
    if is_there:
        log.write_text("precious\n")
    run(tmp_path, 'logger.log_object({}, tag="LITELLM_SETTINGS")\ncaller("x")\nlogger.log_object({})')
    assert (log.read_text() == "precious\n") if is_there else not log.exists()


EARLIER = (
    "2026-01-05 09:00:00.123 | INFO     | rdagent.oai.llm_utils:<module>:12 - the first release's\n"
    "2026-01-05 09:00:00.124 | WARNING  | __main__:caller:3 - own\n"
)


@pytest.mark.parametrize("before", [None, "", EARLIER], ids=["nothing", "empty", "an earlier release's"])
def test_each_run_starts_it_anew(before: str | None, tmp_path: Path, run: Run) -> None:
    """It is the last run's alone, also where an old release did not mark it; each run keeps its own."""
    log = tmp_path / "log" / "latest.log"
    log.parent.mkdir()
    if before is not None:
        log.write_text(before)
    for number, text in enumerate(("the first run, which has the longer line", "second")):
        done = run(tmp_path, f'store()\ncaller("{text}")', run_name=f"run{number}")
        assert text_log(tmp_path, f"run{number}") == f"{LINE}{text}\n"
        assert "stays as it is" not in done.stderr
    run(tmp_path, 'with logger.tag("Loop_1"):\n    store()\ncaller("resumed")', run_name="run0")
    first = f"{LINE}the first run, which has the longer line\n"
    assert text_log(tmp_path, "run0") == f"{LINE}resumed\n"
    assert text_log(tmp_path, "run0", at="run0") == f"{first}{LINE}resumed\n"


def _fifo(log: Path) -> None:
    os.mkfifo(log)


def _socket(log: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(log))


ANOTHERS: dict[str, Callable[[Path], object]] = {
    "a text": lambda log: log.write_text("precious\n"),
    "bytes": lambda log: log.write_bytes(b"\xff\0" * 9),
    "a long line": lambda log: log.write_text("x" * 10**6),
    "one of another program's form": lambda log: log.write_text(EARLIER.replace("rdagent.oai", "my.oai")),
    "one with other lines": lambda log: log.write_text(EARLIER + "precious\n"),
    "a folder": lambda log: log.mkdir(),
    "a link": lambda log: log.symlink_to(Path(shutil.copy(__file__, log.with_name("precious")))),
    "a link to one of ours": lambda log: log.symlink_to(_own(log.with_name("precious"))),
    "a link to nowhere": lambda log: log.symlink_to("nowhere"),
    "a device": lambda log: log.symlink_to("/dev/zero"),
    "a pipe": _fifo,
    "a socket": _socket,
}


def _own(file: Path) -> Path:
    file.write_text("# rdagent-sota-bridge: text log of /logs/run0\nprecious\n")
    return file


def _seen(folder: Path) -> list[Any]:
    """Return what lies in a folder, and what its files hold."""
    return [
        (one.name, one.lstat().st_mode, one.is_file() and one.read_bytes())
        for one in sorted(folder.iterdir())
    ]


@pytest.mark.parametrize("kind", ANOTHERS)
def test_anothers_file_stays(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The run's own folder has the text log then, its processes' lines too, and one line says so."""
    monkeypatch.chdir(tmp_path)
    # One that is spawned imports RD-Agent's logger anew, which takes a second: with two kinds of the twelve.
    method = "spawn" if kind in ("a text", "a folder") else "fork"
    Path("log").mkdir()
    ANOTHERS[kind](tmp_path / "log" / "latest.log")
    before = _seen(tmp_path / "log")
    done = run(
        tmp_path,
        'store()\ncaller("x")\n'
        f'process = multiprocessing.get_context("{method}").Process(target=child, args=("y",))\n'
        "process.start()\nprocess.join()",
    )
    assert [one for one in _seen(tmp_path / "log") if one[0] != "run1"] == before
    in_child = LINE if method == "fork" else LINE.replace("__main__", "__mp_main__")
    assert text_log(tmp_path, at="run1") == f"{LINE}x\n{in_child}y\n{in_child}y again\n"
    own = [line for line in done.stderr.splitlines() if line.startswith("rdagent-sota-bridge:")]
    usual, other = tmp_path / "log" / "latest.log", tmp_path / "log" / "run1" / "latest.log"
    assert own == [
        f"rdagent-sota-bridge: {usual} is not known as this package's, and stays as it is; "
        f"the text log of this run is {other}"
    ]


def test_anothers_files_everywhere(tmp_path: Path, run: Run) -> None:
    """Where both names are taken there is no text log, both files stay, and the run goes on."""
    for folder in (tmp_path / "log", tmp_path / "log" / "run1"):
        folder.mkdir()
        (folder / "latest.log").write_text("precious\n")
    done = run(tmp_path, 'store()\ncaller("x")\nprint("at the end")')
    assert "run1/latest.log can't be written (it is there, and no text log of this package)" in done.stderr
    assert "at the end" in done.stdout
    assert {file.read_text() for file in (tmp_path / "log").rglob("latest.log")} == {"precious\n"}


SECRETS = [
    ("openai_api_key='sk-1' HF_TOKEN='sk-2' key='' text", "openai_api_key='***' HF_TOKEN='***' key='' text"),
    ("{'api_key': 'sk-1', 'b': 'c'}", "{'api_key': '***', 'b': 'c'}"),
    ('{"apiKey": "sk-1", "accessToken": "s k", "a": 1}', '{"apiKey": "***", "accessToken": "***", "a": 1}'),
    (r'"{\"api_key\": \"s\\\"k\", \"b\": \"c\"}"', r'"{\"api_key\": \"***\", \"b\": \"c\"}"'),
    ("password: 'sk-3' passwd=\"a'b\" db_pwd = 'a\\'b' x", "password: '***' passwd=\"***\" db_pwd = '***' x"),
    ("secret=SecretStr('sk-1') password=b'\\x00'", "secret=SecretStr('***') password=b'***'"),
    ("credentials: 'cut off", "credentials: '***"),
    ("'Authorization': 'Bearer sk-1'", "'Authorization': '***'"),
    ("-H 'Authorization: Basic dXNlcjpw' -v", "-H 'Authorization: ***' -v"),
    ("Bearer sk-1, bearer abcdefgh1, bearer of news", "Bearer ***, bearer ***, bearer of news"),
    (
        "passwd=abc pwd=a, password=abc&b api_key=sk-1 hf_token=x f(key=None)",
        "passwd=*** pwd=***, password=***&b api_key=*** hf_token=*** f(key=None)",
    ),
    ("postgresql://u:p/w@h/db http://h/a:b and me@h", "postgresql://***@h/db http://h/a:b and me@h"),
    ("export OPENAI_API_KEY=sk-1 MYSQL_PWD=a/b", "export OPENAI_API_KEY=*** MYSQL_PWD=***"),
    ("https://user:p@ss@host/x http://token@host", "https://***@host/x http://***@host"),
    ("redis://:pw@host:6379 see http://host/a", "redis://***@host:6379 see http://host/a"),
    (
        "https://h/x?X-Amz-Credential=A%2F&X-Amz-Signature=ab&a=b&sig=c&token=d#f",
        "https://h/x?X-Amz-Credential=***&X-Amz-Signature=***&a=b&sig=***&token=***#f",
    ),
    *(
        (text, text)
        for text in (
            "tokenizer_path='/a' 'tokenizer': 'b' TOKENIZER='c' monkey='d' \"monkey\": \"e\" MONKEY=f",
            "keyword='g'",
            "chat_token_limit=100 MAX_TOKENS=100 max_tokens: 5 PWD=/home/x sorted(x, key=len) the key: value",
            "https://host/x?monkey=1&design=2 mail me@host",
        )
    ),
]


def test_secrets_are_masked(tmp_path: Path, run: Run) -> None:
    """Values of secrets become `***`, in whatever form they are logged; what only looks so stays."""
    run(tmp_path, f"store()\nfor text in {[text for text, _ in SECRETS]!r}:\n    caller(text)")
    assert text_log(tmp_path).splitlines() == [LINE + shown for _, shown in SECRETS]


def test_masking_does_not_hold_a_run(tmp_path: Path, run: Run) -> None:
    """A long text of an LLM that is all beginnings of secrets is looked through once."""
    texts = ["key-", "KEY_", "A", "key='", "?key=", "key='" + chr(92) * 2, "://a", "Bearer "]
    run(tmp_path, f"store()\nfor text in {texts!r}:\n    caller(text * 50_000)")
    assert text_log(tmp_path).count(LINE) == len(texts)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_process_goes_on_in_it(tmp_path: Path, method: str, run: Run) -> None:
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
    "a read-only folder": (
        f"log.chmod(0o555)\nif os.geteuid() == 0: os.seteuid({NOBODY})",
        "Permission denied",
        None,
        ("log/latest.log",),
    ),
    "a disk that fills up": (
        "import resource, signal\nstore()\ncaller('x')\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\nstore = int",
        "File too large",
        f"{LINE}x\n",
        ("log/run1/latest.log", "log/latest.log"),
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_log_that_can_not_be_written(name: str) -> None:
    """It is said on stderr once a file, what was written stays, and the run stores its objects and ends."""
    trouble, reason, left, files = TROUBLES[name]
    with public_folder() as folder:
        log = folder / "log"
        (log / "run1").mkdir(parents=True)
        (log / "run1").chmod(0o777)
        start = f"log = Path({str(log)!r})\n{trouble}\nstore()\n"
        script = script_in(folder, f'{start}caller("y")\ncaller("z")\nprint("at the end")')
        # RD-Agent 1.0.0 signs what it stores; the key's file may be closed to the other user.
        variables = {"LOG_TRACE_PATH": str(log / "run1"), "ARTIFACT_SIGNING_KEY": "k" * 32}
        # No fork: its output is a file, which would have no room.
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        log.chmod(0o755)
        own = [line for line in done.stderr.splitlines() if line.startswith("rdagent-sota-bridge:")]
        assert own == [
            f"rdagent-sota-bridge: {folder / file} can't be written ({reason}); the run goes on"
            for file in files
        ]
        assert "at the end" in done.stdout
        assert len(list((log / "run1").rglob("*.pkl"))) == 1
        assert (text_log(folder) if (log / "latest.log").is_file() else None) == left


def test_a_resumed_run_starts_it_in_its_first_step(tmp_path: Path, run: Run) -> None:
    """A resumed run stores no scenario: what it stores inside a step begins it, with the lines before."""
    run(tmp_path, 'caller("early")\nwith logger.tag("Loop_1.coding"):\n    logger.log_object({}, tag="x")')
    assert "early" in (tmp_path / "log" / "latest.log").read_text()
