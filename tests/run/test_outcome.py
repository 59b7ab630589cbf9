"""What came of a job's stages: the manifests of their models, compared with the job's set."""

from __future__ import annotations

import pytest

from tests import stand_in
from tests.stand_in import Project

templates, project = stand_in.templates, stand_in.project
LOOPS = ("--factor-loops", "2", "--model-loops", "2")
OTHER = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("left", "title", "said"),
    [
        (
            {"accepting0": OTHER},
            "factor",
            f"on no factor set, and its models' manifests say otherwise: loop 0 on {OTHER}",
        ),
        ({"models0": OTHER}, "model", f"loop 0 on {OTHER}"),
        ({"models0": "the set's", "models1": None}, "model", "loop 1 on none"),
    ],
    ids=["factors on a set", "models on another", "a model on none"],
)
def test_models_of_another_set(left: dict[str, str | None], title: str, said: str, project: Project) -> None:
    """Manifests that are not of the job's set end it, also when it is resumed, and there is no report."""
    for workspace, digest in left.items():
        project.back_test(workspace, project.digest if digest == "the set's" else digest)
    output = project.fails(*LOOPS, "--baseline")
    assert f"The {title} stage was to train on " in output
    assert said in output
    stages = len(project.calls)
    project.fails("--resume")
    assert len(project.calls) == stages
    assert list(project.log_dir.glob("*_report.html")) == []


def test_models_of_the_set(project: Project) -> None:
    """Models with manifests of the job's set are what was asked for; one that failed has none.

    At the end the job says what `verify` says; here nothing but the manifest shows what it claims.
    """
    output = project.ends(*LOOPS)
    assert "2 model loops: none claims factors\n" in output
    project.back_test("models0", project.digest)
    output = project.fails("--resume")
    assert "went on without" not in output
    assert "2 model loops: 1 claims factors, 0 shown to have them" in output
    assert "do not rely on what is broken or not verified above: rdagent-sota verify --json log/" in output


def test_a_stage_that_went_on_without_the_factors(project: Project) -> None:
    """What SOTA_ON_ERROR=baseline let a models stage do is no error, and is named at the job's end."""
    project.back_test("without0", None)
    output = project.ends(*LOOPS, STAND_IN_MODELS="without")
    said = "The model stage went on without the factors (SOTA_ON_ERROR=baseline): the set is gone"
    assert output.count(said) == 1
    project.back_test("without1", OTHER)
    output = project.fails("--resume", "--model-loops", "3", STAND_IN_MODELS="without")
    assert f"loop 1 on {OTHER}" in output
