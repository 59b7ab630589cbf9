"""An OpenAI-compatible server on loopback that answers RD-Agent's prompts from a script.

It knows the prompts of `rdagent fin_factor`, `fin_model` and `fin_quant` of 0.8.0 and 1.0.0, by sentences
that both versions have in `scenarios/qlib/prompts.yaml`, `components/proposal/prompts.yaml` and the
`prompts.yaml` of the two coders. A prompt it does not know is refused with status 500 and kept in
`ScriptedLLM.unknown`: a script that guesses would hide a change in RD-Agent.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from examples.demo.script import Proposal, Script


@dataclass(frozen=True)
class Request:
    """A request: one of `KINDS`, `embedding` (the texts are in `user`) or `unknown`, and both prompts."""

    kind: str
    system: str
    user: str


_JUDGE = "Your feedback should specify whether the current result supports or refutes the hypothesis"
_WRITE = "Please response the code in the following json format"
_DECIDE = "give a final decision about the evaluation result"

# `fin_quant` asks for one factor or model as its action is called, `fin_factor` and `fin_model` in the plural
# or as "model tuning" (`FactorAndModelHypothesisGen` and others in `components/proposal`).
#
# RD-Agent's own `fin_model` asks for the verdict on a model with the *factor* prompt as its system prompt
# (`QlibModelExperiment2Feedback` in `scenarios/qlib/developer/feedback.py`, 0.8.0 and 1.0.0), and a run with
# the factors with the model prompt. The sentence is in both, so only the user prompt shows what is judged.
# Name, sentences of the system prompt, sentence of the user prompt.
KINDS = (
    ("action", ("decide whether the next experiment should focus on factors or models",), ""),
    ("factor_hypothesis", ("working on generating new hypotheses for the factors in",), ""),
    ("factor_hypothesis", ("working on generating new hypotheses for the factor in",), ""),
    ("factor_experiment", ("trying to generate new factors based on the hypothesis",), ""),
    ("factor_code", ("trying to implement some factors in", _WRITE), ""),
    ("factor_critic", ("check whether user's code is align with the factor and the scenario",), ""),
    ("factor_format", ("help to check whether the output is align with the format",), ""),
    ("factor_decision", ("trying to implement some factors in", _DECIDE), ""),
    ("factor_feedback", (_JUDGE,), "Combined Results:"),
    ("model_hypothesis", ("working on generating new hypotheses for the model tuning in",), ""),
    ("model_hypothesis", ("working on generating new hypotheses for the model in",), ""),
    ("model_experiment", ("trying to generate new model tuning based on the hypothesis",), ""),
    ("model_code", ("trying to implement some pytorch models in", _WRITE), ""),
    ("model_critic", ("check whether user's code is align with the model information and the scenario",), ""),
    ("model_decision", ("trying to implement a model in", _DECIDE), ""),
    ("model_feedback", (_JUDGE,), "# Current Round Information:"),
    # Asked where the output of a run is long (`filter_redundant_text` in `utils/__init__.py`).
    ("output_filter", ("designed to analyze and filter text containing training log messages",), ""),
)


class UnknownPromptError(Exception):
    """The script has no answer to a prompt; the message says what was looked for."""


def recognise(system: str, user: str) -> str:
    """Return the name of the one kind that a prompt is of; UnknownPromptError for none, or several."""
    found = [name for name, known, last in KINDS if last in user and all(part in system for part in known)]
    if len(found) != 1:
        raise UnknownPromptError(f"the prompt is of {' and '.join(found) or 'no kind'} that the script knows")
    return found[0]


def answer(script: Script, kind: str, system: str, user: str, loop: int) -> str:
    """Return what the script says to a prompt of a kind. `loop` counts the proposals of this kind from 0.

    Raises:
        UnknownPromptError: if the prompt is about a factor or model that the script never proposes.
    """
    about, _, step = kind.partition("_")
    proposals = script.factor if about == "factor" else script.model
    if step == "critic":
        return "No critics found"
    said: dict[str, Any]
    if kind == "output_filter":
        said = {"needs_sub": False, "regex_patterns": []}
    elif kind == "action":
        said = {"action": script.actions[loop % len(script.actions)]}
    elif step == "hypothesis":
        said = {"hypothesis": proposals(loop).hypothesis, "reason": proposals(loop).reason}
        if '"action"' in system:
            said["action"] = about
    elif step == "experiment":
        # Older hypotheses follow further down in the same prompt.
        proposal = _of_hypothesis(proposals, user.partition("The former hypothesis")[0])
        said = {proposal.name: proposal.task}
    elif step == "code":
        said = {"code": _named(proposals, user).code}
    elif step == "format":
        said = {"output_format_decision": True, "output_format_feedback": "Correct."}
    elif step == "decision":
        said = {"final_decision": True, "final_feedback": "The implementation is correct."}
    elif about == "factor":
        said = _verdict(system, _of_hypothesis(proposals, user.partition("Tasks and Factors:")[0]))
    else:
        # The best model so far stands above, with its own "name:".
        said = _verdict(system, _named(proposals, user.partition("# Current Round Information:")[2]))
    return json.dumps(said)


_LOOPS = range(200)  # nothing is remembered of what was proposed: a resumed run may have a new server


def _named(proposals: Callable[[int], Proposal], text: str) -> Proposal:
    # The first name is the task's own: code of similar tasks may follow.
    found = re.search(r"^[ \t]*(?:Specific Task: )?(?:factor_)?name: (.+?)[ \t]*$", text, re.MULTILINE)
    for proposal in map(proposals, _LOOPS):
        if found is not None and proposal.name == found.group(1):
            return proposal
    raise UnknownPromptError(f"no proposal of the script has the name in {text[:200]!r}")


def _of_hypothesis(proposals: Callable[[int], Proposal], text: str) -> Proposal:
    found = [one for one in map(proposals, _LOOPS) if one.hypothesis in text]
    if not found:
        raise UnknownPromptError("no proposal of the script has the target hypothesis")
    # The longest: the hypothesis of a later take begins with that of the first.
    return max(found, key=lambda proposal: len(proposal.hypothesis))


def _verdict(system: str, proposal: Proposal) -> dict[str, str | bool]:
    """Return a verdict in the one form that the system prompt shows: both would hide what RD-Agent reads."""
    verdict: dict[str, str | bool] = {
        "Observations": f"{proposal.name} was trained and back-tested.",
        "Feedback for Hypothesis": "Supported." if proposal.accepted else "Refuted.",
        "New Hypothesis": "Something else may do better.",
        "Reasoning": "One round is little evidence.",
    }
    if '"Replace Best Result"' in system:
        verdict["Replace Best Result"] = "yes" if proposal.accepted else "no"
    if '"Decision"' in system:
        verdict["Decision"] = proposal.accepted
    return verdict


class ScriptedLLM:
    """The server, as a context manager: inside the `with` block it listens at `url`, for `OPENAI_API_BASE`.

    One server is meant for one run (of `fin_factor` or `fin_model`) and for its resumption: the loop that a
    proposal is for is the number of trials in its prompt, or the number of proposals made so far, where that
    is more (loops that run in parallel know of no trials yet). With `in_turn` it is for runs and loops that
    come one after the other: then the trials alone count. `requests` has every request, `unknown` those that
    the script has no answer to.
    """

    def __init__(self, script: Script | None = None, *, in_turn: bool = False) -> None:
        """Prepare the server; without a script it has the default one."""
        self.script = script or Script()
        self.in_turn = in_turn
        self.url = ""
        self.requests: list[Request] = []
        self.unknown: list[Request] = []
        self._proposed: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> ScriptedLLM:
        """Listen."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, name="scripted-llm", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; requests and unknown prompts can still be read."""
        self._server.shutdown()
        self._server.server_close()

    def chat(self, system: str, user: str) -> str:
        """Return the answer to one prompt, recorded. Raises UnknownPromptError, recorded too."""
        with self._lock:
            kind = "unknown"
            try:
                kind = recognise(system, user)
                return answer(self.script, kind, system, user, self._loop(kind, user))
            except UnknownPromptError:
                self.unknown.append(Request(kind, system, user))
                raise
            finally:
                self.requests.append(Request(kind, system, user))

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Return 32 numbers for each text, a digest of it: equal texts are alike, all others are not."""
        with self._lock:
            self.requests.append(Request("embedding", "", "\n".join(texts)))
        return [[byte / 127.5 - 1 for byte in hashlib.sha256(text.encode()).digest()] for text in texts]

    def _loop(self, kind: str, user: str) -> int:
        if kind != "action" and not kind.endswith("_hypothesis"):
            return 0
        # In fin_quant each trial names its action, and those of the other kind are shown too.
        shown = re.findall(
            r"^\s*# Trial \d+:\s+## Hypothesis\s+(?:Chosen Action: (\w+))?", user, re.MULTILINE
        )
        trials = sum(kind == "action" or action in ("", kind.partition("_")[0]) for action in shown)
        loop = trials if self.in_turn else max(trials, self._proposed.get(kind, 0))
        self._proposed[kind] = loop + 1
        return loop


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, llm: ScriptedLLM, *connection: Any) -> None:
        self.llm = llm
        super().__init__(*connection)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        answer = self._chat if self.path.endswith("/chat/completions") else self._embeddings
        try:
            answer(asked)
        except UnknownPromptError as error:
            content = {"error": {"message": f"scripted LLM: {error}", "type": "scripted_llm", "code": 500}}
            self._send(500, "application/json", json.dumps(content))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the output of a run belongs to RD-Agent."""

    def _chat(self, asked: dict[str, Any]) -> None:
        """Answer as server-sent events, for RD-Agent asks for a stream: the text, and the end of it."""
        system, user = (
            "\n".join(str(message["content"]) for message in asked["messages"] if message["role"] == role)
            for role in ("system", "user")
        )
        text = self.llm.chat(system, user)
        head = {"id": "scripted", "object": "chat.completion.chunk", "created": 0, "model": asked["model"]}
        choices = [
            {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ]
        events = [json.dumps({**head, "choices": [choice]}) for choice in choices]
        stream = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
        self._send(200, "text/event-stream", stream)

    def _embeddings(self, asked: dict[str, Any]) -> None:
        texts = [asked["input"]] if isinstance(asked["input"], str) else list(asked["input"])
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(self.llm.embed(texts))
        ]
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        content = {"object": "list", "model": asked["model"], "data": data, "usage": usage}
        self._send(200, "application/json", json.dumps(content))

    def _send(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
