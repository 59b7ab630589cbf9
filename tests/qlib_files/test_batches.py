"""Which models' YAML names the batches from memory, and which stays RD-Agent's."""

from __future__ import annotations

import pytest

from rdagent_sota_bridge.qlib_files import batches

NETWORK = """\
task:
    # {% if kind %}a template{% endif %}
    model:
        class: GeneralPTNN
        module_path: qlib.contrib.model.pytorch_general_nn  # Qlib's
        kwargs: {n_jobs: 20, n_epochs: {{ n_epochs }}}
"""


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (NETWORK, ""),
        (NETWORK.replace("class: GeneralPTNN", 'class: "GeneralPTNN"'), ""),
        (
            NETWORK.replace("GeneralPTNN", "LGBModel"),
            "the model is qlib.contrib.model.pytorch_general_nn.LGBModel",
        ),
        (
            NETWORK.replace("qlib.contrib.model.pytorch_general_nn", "a_fork.nn"),
            "the model is a_fork.nn.GeneralPTNN",
        ),
        (NETWORK.replace("class: ", "kind: "), "the model is qlib.contrib.model.pytorch_general_nn"),
        ("task: {dataset: {}}\n", "the model is of no class"),
    ],
    ids=["Qlib's network", "in quotes", "another class", "another module", "no class", "no model"],
)
def test_the_models_that_take_batches_from_memory(config: str, reason: str) -> None:
    """Qlib's network gets the module and its file, all else stays; another model's YAML is as it was."""
    adapted, files, known = batches.adapt(config, wanted=True)
    if reason:
        assert (adapted, files, known) == (config, {}, {"loader": reason})
        return
    assert adapted == config.replace("qlib.contrib.model.pytorch_general_nn", "sota_batches")
    assert set(files) == {"sota_batches.py"}
    assert known == {"batches": "memory"}
    assert batches.adapt(adapted, wanted=True)[0] == adapted, "a fork may train the same text again"


def test_switched_off() -> None:
    """With SOTA_FAST_TRAINING=false YAML and folder are as RD-Agent has them, and the reason is said."""
    found = batches.adapt(NETWORK, wanted=False)
    assert found == (NETWORK, {}, {"loader": "SOTA_FAST_TRAINING=false"})
