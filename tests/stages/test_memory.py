"""Running out of memory, under a limit of the address space, gives one line and status 2."""

import json
import resource

import pytest

from tests import tiny_models
from tests.stages.material import prompts, write_jsonl
from tests.stages.processes import LAUNCH_SECONDS, started
from training.models.tiny import write_random_scorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with small weights and large activations, its scorer, and long demonstrations."""
    folder = tmp_path_factory.mktemp("wide")
    lm = tiny_models.gpt2(
        tiny_models.PAD_ID + 1, n_positions=512, n_embd=256, n_layer=4, bos_token_id=0
    )
    model = tiny_models.write_lm(folder / "model", lm)
    scorer = write_random_scorer(model, folder / "scorer", flag="--model")
    config = {**lm.config.to_dict(), "n_embd": 1024, "n_layer": 24}
    (folder / "config.json").write_text(json.dumps(config))
    write_jsonl(
        folder / "long.jsonl",
        [{**row, "response": " w1 w2 w3" * 150} for row in prompts(24)],
    )
    write_jsonl(folder / "prompts.jsonl", prompts(480))
    return folder, model, scorer


@pytest.mark.parametrize(
    ("phase", "program", "words"),
    [
        ("train", "step1_sft", ["while training", "--micro_batch_tokens (now 60000)"]),
        pytest.param(
            "load",
            "step1_sft",
            ["while loading the models", "--zero_stage 3", "a smaller model"],
            marks=pytest.mark.full,
        ),
        pytest.param(
            "generate",
            "step3_ppo",
            ["while generating", "--generation_batch_size (now 256)"],
            marks=pytest.mark.full,
        ),
        pytest.param(
            "update",
            "step3_ppo",
            ["while training", "--gradient_checkpointing true"],
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_error_names_the_phase_and_the_flag(phase, program, words, wide, user_env, tmp_path):
    folder, model, scorer = wide
    flags = ["--output_dir", tmp_path / "out", "--micro_batch_tokens", "60000", "--dtype", "fp32"]
    if program == "step1_sft":
        flags += ["--data_path", folder / "long.jsonl", "--max_length", "500", "--max_steps", "1"]
        if phase == "load":
            flags += ["--init_from_scratch", folder / "config.json"]
            flags += ["--tokenizer_name_or_path", model]
        else:
            flags += ["--model_name_or_path", model]
    else:
        flags += ["--data_path", folder / "prompts.jsonl", "--max_new_tokens", "300"]
        flags += ["--actor_model_name_or_path", model, "--reward_model_name_or_path", scorer]
        flags += ["--rollout_batch_size", "64", "--minibatch_size", "64"]
        # Short responses to 240 prompts need over 100 MB of keys and values, before step 1.
        flags += ["--eval_fraction", "0.5"] if phase == "generate" else ["--max_eval_rows", "1"]
    command = ["python", "-m", "tests.stages.starved", phase, program, *flags]
    with started(command, tmp_path, user_env) as launched:
        status = launched.wait(LAUNCH_SECONDS)
        errors = launched.errors.read_text()
    lines = [line for line in errors.splitlines() if line.startswith("main.py: error: ")]
    assert status == 2, errors[-3000:]
    assert len(lines) == 1
    assert "Traceback" not in errors
    assert lines[0].startswith("main.py: error: out of memory ")
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "out/complete.json").exists()


def test_the_limit_of_this_process_is_unchanged():
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
