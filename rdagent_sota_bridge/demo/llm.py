"""An OpenAI-compatible server on loopback that answers RD-Agent's prompts from a script.

It knows the prompts of `rdagent fin_factor`, `fin_model` and `fin_quant` of 0.8.0 and 1.0.0, by sentences
that both versions have in `scenarios/qlib/prompts.yaml`, `components/proposal/prompts.yaml` and the
`prompts.yaml` of the two coders. A prompt it does not know is refused with status 500 and kept in
`ScriptedLLM.unknown`: a script that guesses would hide a change in RD-Agent.

The upper half is the script, plain data that can be replaced; the lower half is the server.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from typing import Any

# ----- script

MOMENTUM_CODE = """\
import pandas as pd


def calculate_{name}():
    # Index: (datetime, instrument), sorted; one row for each instrument and trading day.
    prices = pd.read_hdf("daily_pv.h5", key="data")
    close = prices["$close"]
    momentum = close / close.groupby(level="instrument").shift({window}) - 1
    momentum.rename("{name}").to_frame().to_hdf("result.h5", key="data")


if __name__ == "__main__":
    calculate_{name}()
"""

GAP_CODE = """\
import pandas as pd


def calculate_overnight_gap():
    # Index: (datetime, instrument), sorted; one row for each instrument and trading day.
    prices = pd.read_hdf("daily_pv.h5", key="data")
    previous_close = prices.groupby(level="instrument")["$close"].shift(1)
    gap = prices["$open"] / previous_close - 1
    gap.rename("overnight_gap").to_frame().to_hdf("result.h5", key="data")


if __name__ == "__main__":
    calculate_overnight_gap()
"""

MLP_CODE = '''\
import torch
from torch import nn


class SmallMLP(nn.Module):
    """(batch, features) to (batch, 1)."""

    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


model_cls = SmallMLP
'''

GRU_CODE = '''\
import torch
from torch import nn


class SmallGRU(nn.Module):
    """(batch, timesteps, features) to (batch, 1)."""

    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.recurrent = nn.GRU(num_features, 16, batch_first=True)
        self.output = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(x)
        return self.output(states[:, -1, :])


model_cls = SmallGRU
'''


@dataclass(frozen=True)
class Factor:
    """One factor that the script proposes, alone in its loop.

    Attributes:
        name: the column that `code` writes; unique in a script.
        hypothesis: unique in a script too, for RD-Agent hands it back to say which factor it asks about.
        code: a whole `factor.py` that reads `daily_pv.h5` and writes `result.h5`.
        accepted: the verdict after the back-test.
    """

    name: str
    hypothesis: str
    reason: str
    description: str
    formulation: str
    variables: dict[str, str]
    code: str
    accepted: bool

    def task(self) -> dict[str, Any]:
        """The factor as RD-Agent's `factor_experiment_output_format` prompt asks for it."""
        return {
            "description": self.description,
            "formulation": self.formulation,
            "variables": self.variables,
        }


@dataclass(frozen=True)
class Model:
    """One model that the script proposes.

    Attributes:
        name: unique in a script.
        hypothesis: unique in a script too, for RD-Agent hands it back to say which model it asks about.
        model_type: `Tabular` or `TimeSeries`.
        code: a whole `model.py` that sets `model_cls`.
        training: RD-Agent's training hyperparameters (n_epochs, lr, early_stop, batch_size, weight_decay).
        accepted: the verdict after the back-test, in the form that the prompt shows.
    """

    name: str
    hypothesis: str
    reason: str
    description: str
    formulation: str
    architecture: str
    model_type: str
    code: str
    hyperparameters: dict[str, str]
    training: dict[str, str]
    accepted: bool = True

    def task(self) -> dict[str, Any]:
        """The model as RD-Agent's `model_experiment_output_format` prompt asks for it."""
        return {
            "description": self.description,
            "formulation": self.formulation,
            "architecture": self.architecture,
            "variables": {"x": "features of one instrument", "y": "predicted return"},
            "hyperparameters": self.hyperparameters,
            "training_hyperparameters": self.training,
            "model_type": self.model_type,
        }


def momentum(window: int, *, accepted: bool = False) -> Factor:
    """The return over `window` trading days: worth nothing in the demo's market."""
    name = f"momentum_{window}d"
    return Factor(
        name=name,
        hypothesis=f"Stocks that rose over the last {window} trading days go on rising ({name}).",
        reason="Momentum is the simplest factor to start from.",
        description=f"[Momentum Factor] Return over the last {window} trading days.",
        formulation=rf"\frac{{close_t}}{{close_{{t-{window}}}}} - 1",
        variables={"close_t": "closing price of day t"},
        code=MOMENTUM_CODE.format(name=name, window=window),
        accepted=accepted,
    )


OVERNIGHT_GAP = Factor(
    name="overnight_gap",
    hypothesis="News that arrives overnight moves the open first and the closes that follow after it.",
    reason="No factor so far looks at the open.",
    description="[Price Factor] Open of the day against the close of the day before.",
    formulation=r"\frac{open_t}{close_{t-1}} - 1",
    variables={"open_t": "opening price of day t", "close_t": "closing price of day t"},
    code=GAP_CODE,
    accepted=True,
)

# Few epochs on large steps: the demo's market has one effect, and a small network finds it at once.
SMALL_MLP = Model(
    name="SmallMLP",
    hypothesis="A small multi-layer perceptron reads the features of one day well enough.",
    reason="A simple architecture first.",
    description="Two linear layers with a ReLU between them.",
    formulation=r"y = W_2 \max(W_1 x + b_1, 0) + b_2",
    architecture="Linear(num_features, 32), ReLU, Linear(32, 1)",
    model_type="Tabular",
    code=MLP_CODE,
    hyperparameters={"hidden_size": "32"},
    training={
        "n_epochs": "2",
        "lr": "1e-2",
        "early_stop": "2",
        "batch_size": "256",
        "weight_decay": "1e-4",
    },
)

SMALL_GRU = Model(
    name="SmallGRU",
    hypothesis="A recurrent network over the last days sees what one day does not show.",
    reason="Market data are time series.",
    description="One GRU layer; its last state is mapped to the prediction.",
    formulation=r"h_t = GRU(x_t, h_{t-1}),\; y = W h_T + b",
    architecture="GRU(num_features, 16), Linear(16, 1)",
    model_type="TimeSeries",
    code=GRU_CODE,
    hyperparameters={"hidden_size": "16"},
    training={
        "n_epochs": "2",
        "lr": "1e-2",
        "early_stop": "2",
        "batch_size": "256",
        "weight_decay": "1e-5",
    },
)


@dataclass(frozen=True)
class Script:
    """What the LLM proposes, loop by loop, and what it says to the results.

    Attributes:
        factors: the factor of each loop of `fin_factor`; loops after the last one propose momentum over
            ever longer windows, to be rejected.
        models: the model of each loop of `fin_model`; loops after the last one propose them again under
            other names and with more epochs, so that RD-Agent does not answer from its cache.
        actions: what `fin_quant` does in its loops, in turn, where it asks the LLM.
    """

    factors: tuple[Factor, ...] = (momentum(10), OVERNIGHT_GAP)
    models: tuple[Model, ...] = (SMALL_MLP, SMALL_GRU)
    actions: tuple[str, ...] = ("factor", "model")

    def factor(self, loop: int) -> Factor:
        """The factor of a loop, counted from 0."""
        return self.factors[loop] if loop < len(self.factors) else momentum(20 + 5 * loop)

    def model(self, loop: int) -> Model:
        """The model of a loop, counted from 0."""
        turn, position = divmod(loop, len(self.models))
        model = self.models[position]
        if turn == 0:
            return model
        epochs = int(model.training["n_epochs"]) + turn
        return replace(
            model,
            name=f"{model.name}{turn + 1}",
            hypothesis=f"{model.hypothesis} More epochs help it (take {turn + 1}).",
            training={**model.training, "n_epochs": str(epochs)},
        )


# ----- prompts


@dataclass(frozen=True)
class Request:
    """One request that reached the server.

    `kind` is one of `KINDS`, or `embedding` (the texts are in `user`), or `unknown`.
    """

    kind: str
    system: str
    user: str


@dataclass(frozen=True)
class Kind:
    """A kind of prompt: the sentences that its system prompt and its user prompt must contain."""

    name: str
    system: tuple[str, ...]
    user: str = ""


_JUDGE = "Your feedback should specify whether the current result supports or refutes the hypothesis"
_WRITE = "Please response the code in the following json format"
_DECIDE = "give a final decision about the evaluation result"

# `fin_quant` asks for one factor or model as its action is called, `fin_factor` and `fin_model` in the plural
# or as "model tuning" (`FactorAndModelHypothesisGen` and others in `components/proposal`).
#
# RD-Agent's own `fin_model` asks for the verdict on a model with the *factor* prompt as its system prompt
# (`QlibModelExperiment2Feedback` in `scenarios/qlib/developer/feedback.py`, 0.8.0 and 1.0.0), and a run with
# the factors with the model prompt. The sentence is in both, so only the user prompt tells what is judged.
KINDS = (
    Kind("action", ("decide whether the next experiment should focus on factors or models",)),
    Kind("factor_hypothesis", ("working on generating new hypotheses for the factors in",)),
    Kind("factor_hypothesis", ("working on generating new hypotheses for the factor in",)),
    Kind("factor_experiment", ("trying to generate new factors based on the hypothesis",)),
    Kind("factor_code", ("trying to implement some factors in", _WRITE)),
    Kind("factor_critic", ("check whether user's code is align with the factor and the scenario",)),
    Kind("factor_format", ("help to check whether the output is align with the format",)),
    Kind("factor_decision", ("trying to implement some factors in", _DECIDE)),
    Kind("factor_feedback", (_JUDGE,), "Combined Results:"),
    Kind("model_hypothesis", ("working on generating new hypotheses for the model tuning in",)),
    Kind("model_hypothesis", ("working on generating new hypotheses for the model in",)),
    Kind("model_experiment", ("trying to generate new model tuning based on the hypothesis",)),
    Kind("model_code", ("trying to implement some pytorch models in", _WRITE)),
    Kind("model_critic", ("check whether user's code is align with the model information and the scenario",)),
    Kind("model_decision", ("trying to implement a model in", _DECIDE)),
    Kind("model_feedback", (_JUDGE,), "# Current Round Information:"),
    # Asked where the output of a run is long (`filter_redundant_text` in `utils/__init__.py`).
    Kind("output_filter", ("designed to analyze and filter text containing training log messages",)),
)


class UnknownPromptError(Exception):
    """The script has no answer to a prompt; the message says what was looked for."""


def recognise(system: str, user: str) -> str:
    """The name of the one kind that a prompt is of.

    Raises:
        UnknownPromptError: it is of none, or of several.
    """
    found = [
        kind.name
        for kind in KINDS
        if kind.user in user and all(sentence in system for sentence in kind.system)
    ]
    if len(found) != 1:
        raise UnknownPromptError(f"the prompt is of {' and '.join(found) or 'no kind'} that the script knows")
    return found[0]


def answer(script: Script, kind: str, system: str, user: str, loop: int) -> str:
    """What the script says to a prompt of a kind. `loop` counts the proposals of this kind from 0.

    Raises:
        UnknownPromptError: the prompt is about a factor or model that the script never proposes.
    """
    if kind == "output_filter":
        return json.dumps({"needs_sub": False, "regex_patterns": []})
    if kind == "action":
        return json.dumps({"action": script.actions[loop % len(script.actions)]})
    about: Callable[[int], Factor | Model] = script.factor if kind.startswith("factor") else script.model
    step = kind.partition("_")[2]
    if step == "hypothesis":
        proposal = about(loop)
        proposed = {"hypothesis": proposal.hypothesis, "reason": proposal.reason}
        if '"action"' in system:
            proposed["action"] = kind.partition("_")[0]
        return json.dumps(proposed)
    if step == "experiment":
        # Older hypotheses follow further down in the same prompt.
        target = user.partition("The former hypothesis")[0]
        proposal = _of_hypothesis(about, target)
        return json.dumps({proposal.name: proposal.task()})
    if step == "code":
        return json.dumps({"code": _named(about, user).code})
    if step == "critic":
        return "No critics found"
    if step == "format":
        return json.dumps({"output_format_decision": True, "output_format_feedback": "Correct."})
    if step == "decision":
        return json.dumps({"final_decision": True, "final_feedback": "The implementation is correct."})
    return _verdict(system, _judged(about, kind, user))


def _judged(about: Callable[[int], Factor | Model], kind: str, user: str) -> Factor | Model:
    if kind == "factor_feedback":
        target = user.partition("Tasks and Factors:")[0]
        return _of_hypothesis(about, target)
    # The best model so far stands above, with its own "name:".
    return _named(about, user.partition("# Current Round Information:")[2])


def _named(about: Callable[[int], Factor | Model], text: str) -> Factor | Model:
    # The first name is the task's own: code of similar tasks may follow.
    found = re.search(r"^[ \t]*(?:Specific Task: )?(?:factor_)?name: (.+?)[ \t]*$", text, re.MULTILINE)
    name = found.group(1) if found else ""
    for proposal in _proposals(about):
        if proposal.name == name:
            return proposal
    raise UnknownPromptError(f"no proposal of the script has the name {name!r}")


def _of_hypothesis(about: Callable[[int], Factor | Model], text: str) -> Factor | Model:
    # The longest: the hypothesis of a later take begins with that of the first.
    found = [proposal for proposal in _proposals(about) if proposal.hypothesis in text]
    if not found:
        raise UnknownPromptError("no proposal of the script has the target hypothesis")
    return max(found, key=lambda proposal: len(proposal.hypothesis))


def _proposals(about: Callable[[int], Factor | Model]) -> Iterator[Factor | Model]:
    """All that the script may have proposed. Nothing is remembered: a resumed run may have a new server."""
    return (about(loop) for loop in range(200))


def _verdict(system: str, proposal: Factor | Model) -> str:
    """A verdict in the form that the system prompt shows, and in no other.

    RD-Agent's own `fin_model` shows `"Replace Best Result"` and reads `"Decision"`: an answer that has both
    would hide that.
    """
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
    return json.dumps(verdict)


# ----- server


@dataclass
class _Record:
    requests: list[Request] = field(default_factory=list)
    unknown: list[Request] = field(default_factory=list)
    proposed: dict[str, int] = field(default_factory=dict)


class ScriptedLLM:
    """The server, as a context manager: it listens inside the `with` block, on a port of its own.

    One server is meant for one run (of `fin_factor` or `fin_model`) and for its resumption: the loop that a
    proposal is for is the number of trials its prompt tells of, or the number of proposals made so far,
    where that is more (loops that run in parallel know of no trials yet). `restart()` before a further run
    on the same server; or `in_turn`, for runs and loops that come one after the other: then the trials
    alone tell the loop.

    Attributes:
        script: what is answered.
        in_turn: whether loops come one after the other, in any number of runs.
        requests: every request in the order of arrival, embeddings and unknown ones included.
        unknown: those that the script has no answer to.
    """

    def __init__(self, script: Script | None = None, *, in_turn: bool = False) -> None:
        """Prepare the server; without a script it has the default one."""
        self.script = script or Script()
        self.in_turn = in_turn
        self._record = _Record()
        self._lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def requests(self) -> list[Request]:
        """A copy of the list; safe to read while a run goes on."""
        with self._lock:
            return list(self._record.requests)

    @property
    def unknown(self) -> list[Request]:
        """A copy of the list; safe to read while a run goes on."""
        with self._lock:
            return list(self._record.unknown)

    @property
    def url(self) -> str:
        """The base URL with `/v1`, for `OPENAI_API_BASE`. Raises RuntimeError outside the `with` block."""
        if self._server is None:
            raise RuntimeError("the scripted LLM listens only inside its `with` block")
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def restart(self) -> None:
        """Forget the requests and begin the script anew, for a further run."""
        with self._lock:
            self._record = _Record()

    def __enter__(self) -> ScriptedLLM:
        """Listen."""
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, name="scripted-llm", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening; requests and unknown prompts can still be read."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def chat(self, system: str, user: str) -> str:
        """The answer to one prompt, recorded. Raises UnknownPromptError, recorded too."""
        with self._lock:
            kind = "unknown"
            try:
                kind = recognise(system, user)
                return answer(self.script, kind, system, user, self._loop(kind, user))
            except UnknownPromptError:
                self._record.unknown.append(Request(kind, system, user))
                raise
            finally:
                self._record.requests.append(Request(kind, system, user))

    def embed(self, texts: list[str]) -> list[list[float]]:
        """One vector of 32 numbers per text, a digest of it: equal texts are alike, all others are not."""
        with self._lock:
            self._record.requests.append(Request("embedding", "", "\n".join(texts)))
        return [[byte / 127.5 - 1 for byte in hashlib.sha256(text.encode()).digest()] for text in texts]

    def _loop(self, kind: str, user: str) -> int:
        if kind != "action" and not kind.endswith("_hypothesis"):
            return 0
        # In fin_quant each trial tells its action, and those of the other kind are shown too.
        told = re.findall(r"^\s*# Trial \d+:\s+## Hypothesis\s+(?:Chosen Action: (\w+))?", user, re.MULTILINE)
        trials = sum(kind == "action" or action in ("", kind.partition("_")[0]) for action in told)
        loop = trials if self.in_turn else max(trials, self._record.proposed.get(kind, 0))
        self._record.proposed[kind] = loop + 1
        return loop


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, llm: ScriptedLLM) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.llm = llm


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        try:
            if self.path.endswith("/chat/completions"):
                self._chat(asked)
            elif self.path.endswith("/embeddings"):
                self._embeddings(asked)
            else:
                self._refuse(404, f"the scripted LLM has no {self.path}")
        except UnknownPromptError as error:
            self._refuse(500, f"scripted LLM: {error}")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the output of a run belongs to RD-Agent."""

    def _chat(self, asked: dict[str, Any]) -> None:
        text = self.server.llm.chat(*_prompts(asked["messages"]))
        if asked.get("stream"):
            self._send(200, "text/event-stream", "".join(_events(asked["model"], text)))
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self._send_json(
                200, {**_head("chat.completion", asked["model"]), "choices": [choice], "usage": _USAGE}
            )

    def _embeddings(self, asked: dict[str, Any]) -> None:
        texts = [asked["input"]] if isinstance(asked["input"], str) else list(asked["input"])
        vectors = self.server.llm.embed(texts)
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        self._send_json(200, {"object": "list", "model": asked["model"], "data": data, "usage": _USAGE})

    def _refuse(self, status: int, message: str) -> None:
        self._send_json(status, {"error": {"message": message, "type": "scripted_llm", "code": status}})

    def _send_json(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content))

    def _send(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_numbers = count(1)


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"scripted-{next(_numbers)}", "object": kind, "created": 0, "model": model}


def _prompts(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """The system prompt and the user prompt; several messages of one role are joined."""

    def said(role: str) -> str:
        return "\n".join(str(message["content"]) for message in messages if message["role"] == role)

    return said("system"), said("user")


def _events(model: str, text: str) -> Iterator[str]:
    """A streamed answer as server-sent events: the text, the end of it, and OpenAI's closing mark."""
    head = _head("chat.completion.chunk", model)
    steps: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": text}, None),
        ({}, "stop"),
    ]
    for delta, finish in steps:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"
