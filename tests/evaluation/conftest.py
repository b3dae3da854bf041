from typing import Any

import pytest

from tests.evaluation.material import write_material
from training.arguments.evaluate import EvaluateArgs


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder with all of it; tests only read it."""
    return write_material(tmp_path_factory.mktemp("made"))


@pytest.fixture
def evaluate_args(made, tmp_path):
    """The flags of an evaluation of all that was made, with changes."""

    def build(**changes: Any) -> EvaluateArgs:
        flags: dict[str, Any] = {
            "before": str(made / "before"),
            "after": str(made / "after"),
            "reward_model_name_or_path": str(made / "reward"),
            "judge": [str(made / "judge.py")],
            "data_path": [str(made / "prompts.jsonl")],
            "output_dir": str(tmp_path / "out"),
            "max_prompt_length": 36,
            "max_new_tokens": 12,
            "dtype": "fp32",
        }
        return EvaluateArgs(**(flags | changes))

    return build
