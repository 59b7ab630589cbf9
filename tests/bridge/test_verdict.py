"""The verdict on models: RD-Agent's own proposals and feedback, and a scripted LLM; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from examples.demo import sandbox
from examples.demo.llm import Request, ScriptedLLM
from examples.demo.script import SMALL_GRU, SMALL_MLP, Script
from rdagent_sota_bridge.bridge import plan, verdict
from rdagent_sota_bridge.bridge import seams as table
from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE
from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.settings import read_settings
from tests import seams
from tests.forking import Forks

SCRIPT = Script(models=(SMALL_MLP, replace(SMALL_GRU, accepted=False)))
"""The LLM says yes to the first model, no to the second, and yes to the third."""

LOOPS = '''
"""Three loops of fin_model in each way, by RD-Agent's own classes; only coder and training are left out."""
import json, os
import pandas as pd
from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting
from rdagent.components.coder.model_coder.model import ModelFBWorkspace
from rdagent.core.proposal import Trace
from rdagent.core.utils import import_class
from rdagent_sota_bridge import patch
from examples.demo.script import SMALL_MLP

named = ModelBasePropSetting()
scen = import_class(named.scen)()

def loops():
    propose, convert, judge = (
        import_class(named.hypothesis_gen)(scen),
        import_class(named.hypothesis2experiment)(),
        import_class(named.summarizer)(scen),
    )
    trace = Trace(scen=scen)
    for number in range(3):
        experiment = convert.convert(propose.gen(trace), trace)
        code = ModelFBWorkspace(target_task=experiment.sub_tasks[0])
        code.file_dict["model.py"] = SMALL_MLP.code
        experiment.sub_workspace_list = [code]
        names = [f"1day.excess_return_{kind}_cost.{name}" for kind in ("with", "without")
                 for name in ("annualized_return", "max_drawdown")]
        experiment.result = pd.Series({"IC": 0.01 * number, **dict.fromkeys(names, 0.1)})
        trace.hist.append((experiment, judge.generate_feedback(experiment, trace)))
    return [feedback.decision for _, feedback in trace.hist]

said = {}
for switch, way in (("true", "mended"), ("true", "rdagent"), ("false", "mended")):
    os.environ |= {"LOAD_SOTA_FROM_WORKSPACE": switch, "SOTA_MODEL_VERDICT": way}
    said[f"{switch} {way}"] = loops()
patch.revert()
said["reverted"] = loops()
print(json.dumps(said))
'''


@dataclass(frozen=True)
class Loops:
    """Three loops: their verdicts, and what the LLM was asked."""

    verdicts: list[bool]
    requests: list[Request]

    def asked(self, kind: str) -> list[Request]:
        """Return the requests of a kind."""
        return [request for request in self.requests if request.kind == kind]


@pytest.fixture(scope="module")
def ways(forks_of_rdagent: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loops]:
    """Return three loops of each way, by name; on the installed RD-Agent."""
    box = sandbox.create(tmp_path_factory.mktemp("verdict") / "box")
    with ScriptedLLM(SCRIPT, in_turn=True) as llm:
        said = forks_of_rdagent.output(LOOPS, folder=box.project, **box.environment(llm.url))
    assert llm.unknown == []
    verdicts = json.loads(said.splitlines()[-1])
    requests = [request for request in llm.requests if request.kind != "embedding"]
    each = len(requests) // len(verdicts)
    assert each * len(verdicts) == len(requests)
    return {
        way: Loops(said, requests[number * each : (number + 1) * each])
        for number, (way, said) in enumerate(verdicts.items())
    }


def test_mended_the_answers_count(ways: dict[str, Loops]) -> None:
    """The LLM is shown the one form that RD-Agent reads, and each verdict is what it says."""
    mended = ways["true mended"]
    assert mended.verdicts == [True, False, True]
    for request in mended.asked("model_feedback"):
        assert '"Decision": <true or false>' in request.system
        assert "Replace Best Result" not in request.system
        assert "Background of the scenario:" in request.system


def test_mended_every_prompt_names_the_best_so_far(ways: dict[str, Loops]) -> None:
    """After the first loop all prompts name the first model as the best, in the third too, and no other."""
    mended = ways["true mended"]
    for kind, heading, end in (
        ("model_hypothesis", "Here is the SOTA trail's hypothesis", "To assist you"),
        ("model_experiment", "The SOTA hypothesis and the corresponding feedback", "Please generate"),
        ("model_feedback", "# SOTA Round Information", "# Current Round Information"),
    ):
        prompts = [request.user for request in mended.asked(kind)]
        begun = len(prompts) // 3
        for prompt in prompts[:begun]:
            assert SMALL_MLP.hypothesis not in prompt.partition(heading)[2].partition(end)[0]
        for prompt in prompts[begun:]:
            assert prompt.count(heading) == 1
            best = prompt.partition(heading)[2].partition(end)[0]
            assert SMALL_MLP.hypothesis in best
            assert "name: SmallMLP\n" in best
            assert SMALL_GRU.hypothesis not in best
    assert "class SmallMLP(nn.Module)" in mended.asked("model_feedback")[-1].user.partition("# Current")[0]


def test_otherwise_all_is_rdagents_own(ways: dict[str, Loops]) -> None:
    """Switched off, or left as it is, every prompt is that of a reverted RD-Agent, which accepts nothing."""
    own = ways["reverted"]
    assert own.verdicts == [False, False, False]
    for request in own.requests:
        assert "SOTA Round Information" not in request.user
        assert "SOTA): True" not in request.user
        assert "successful): True" not in request.user
    for request in own.asked("model_feedback"):
        assert '"Replace Best Result": "yes or no"' in request.system
        assert "Decision" not in request.system
    assert ways["true rdagent"] == own
    assert ways["false mended"] == own


# --- what an answer does, in this process ---

YES = json.dumps({DECISION: True})
LINE = (
    "SOTA model verdict: the LLM was shown the model prompt, and its answer counts in either form "
    "(SOTA_MODEL_VERDICT=mended)"
)


class Scenario:
    """A scenario of fin_model."""

    def get_scenario_all_desc(self, *args: Any, **kwargs: Any) -> str:
        """Return its text."""
        return "a scenario"


@pytest.fixture
def feedback(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return RD-Agent's module with the seam applied, and the switch on."""
    from rdagent.scenarios.qlib.developer import feedback as module

    table.apply_seam("verdict")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    yield module
    assert verdict._request.get() is None


class Judge:
    """RD-Agent's verdict on a model, with an LLM that gives two answers.

    Attributes:
        shown: The system prompts that the LLM was shown.
        said: What was logged of the verdict.
    """

    def __init__(self, feedback: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        """Prepare it."""
        self.feedback, self.monkeypatch = feedback, monkeypatch
        self.shown: list[str] = []
        self.said: list[str] = []

    def __call__(self, first: str | Exception, last: str = YES, scen: Any = None) -> Any:
        """Return RD-Agent's feedback on a model."""
        from rdagent.core.proposal import Hypothesis, Trace

        answers = iter([first, last])
        shown = self.shown

        class Backend:
            def build_messages_and_create_chat_completion(self, system_prompt: str, **kwargs: Any) -> str:
                shown.append(system_prompt)
                answer = next(answers)
                if isinstance(answer, Exception):
                    raise answer
                return answer

        self.monkeypatch.setattr(self.feedback, "APIBackend", Backend)
        experiment = seams.model_experiment()
        experiment.hypothesis = Hypothesis("h", "r", "", "", "", "")
        experiment.result = pd.Series(dict.fromkeys(self.feedback.IMPORTANT_METRICS, 0.1))
        scen = scen or Scenario()
        judge = self.feedback.QlibModelExperiment2Feedback(scen)
        with seams.logged() as lines:
            found = judge.generate_feedback(experiment, Trace(scen=scen))
        self.said = [line for line in lines if "SOTA model verdict" in line]
        return found


@pytest.fixture
def judge(feedback: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Return RD-Agent's verdict."""
    return Judge(feedback, monkeypatch)


@pytest.mark.parametrize(
    ("content", "accepted", "expected"),
    [
        ({REPLACE: "yes"}, True, 'INFO: {}: accepted, for it says "Replace Best Result": "yes"'),
        ({DECISION: "no"}, False, 'INFO: {}: not accepted, for it says "Decision": "no"'),
        (
            {DECISION: "partly"},
            False,
            'WARNING: {}: not accepted, for it says neither yes nor no ("Decision": "partly")',
        ),
        ({}, False, 'WARNING: {}: not accepted, for it has neither "Decision" nor "Replace Best Result"'),
    ],
)
def test_an_answer_counts(judge: Judge, content: dict[str, Any], accepted: bool, expected: str) -> None:
    """Each answer becomes a verdict, and one line that says why; of two answers the last counts."""
    found = judge('{"Decision": "hm"}', json.dumps({"Observations": "seen", **content}))
    assert (found.decision, found.observations) == (accepted, "seen")
    assert all('"Decision": <true or false>' in system for system in judge.shown)
    assert judge.said == [f"{expected.format(LINE)}\n"]


def test_fin_quant_is_left_alone(judge: Judge) -> None:
    """There RD-Agent shows the model prompt itself; its reading of the answer stays, and it logs no line."""

    class Quant(Scenario, judge.feedback.QlibQuantScenario):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

    assert judge(YES, '{"Replace Best Result": "yes"}', Quant()).decision is False
    assert judge.said == []


def test_an_error_leaves_nothing_behind(judge: Judge) -> None:
    """After an LLM that failed, and after an answer that is no JSON, the next verdict is as good as any."""
    with pytest.raises(TimeoutError):
        judge(TimeoutError())
    with pytest.raises(json.JSONDecodeError):
        judge("no JSON")
    assert judge(YES).decision is True


def test_templates_are_found_as_before(feedback: ModuleType) -> None:
    """A relative address is still taken from the file that names it, and json is Python's in all else."""
    with pytest.raises(FileNotFoundError, match=str(Path(__file__).parent)):
        feedback.T(".nowhere:prompt")
    assert feedback.json.dumps is json.dumps
    assert feedback.json.JSONDecodeError is json.JSONDecodeError


def test_a_run_that_cannot_accept_says_so(monkeypatch: pytest.MonkeyPatch, feedback: ModuleType) -> None:
    """At its start a run warns where its verdict can't accept a model; else it says nothing then."""

    def warned() -> str:
        with seams.logged() as lines:
            plan._warn_of_verdict(read_settings())
        return "".join(lines)

    start = "WARNING: SOTA model verdict: RD-Agent's own is in force"
    assert warned() == ""
    monkeypatch.setenv("SOTA_MODEL_VERDICT", "rdagent")
    assert warned().startswith(f"{start} (SOTA_MODEL_VERDICT=rdagent)")
    monkeypatch.setenv("SOTA_MODEL_VERDICT", "mended")
    monkeypatch.delitem(table._applied, "verdict")
    assert warned().startswith(f"{start} (the seam verdict is not applied)")
    monkeypatch.setitem(table._misfits, "verdict", SeamError("its T is odd", "there", "do"))
    assert warned().startswith(f"{start} (its T is odd)")
