"""PPO with LoRA: it starts from the policy that sampled, and only adapters and the head learn."""

from dataclasses import replace

import pytest

from tests.tiny_models import gpt2, llama, write_lm
from tests.trainers.bandit import EOS_ID, TOKENIZER, Bandit
from tests.trainers.test_single_update import ARGS as WHOLE

ARGS = replace(WHOLE, lora_rank=3)


def bandit_of(world, folder, build, args):
    lm = build(len(TOKENIZER), seed=1)
    lm.config.bos_token_id = lm.config.eos_token_id = EOS_ID
    return Bandit(args, world, write_lm(folder, lm, TOKENIZER))


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("changes", [{}, {"ppo_epochs": 2}])
def test_the_first_ratio_is_one_and_the_first_kl_zero_then_adapters_learn(
    world, tmp_path, build, changes
):
    bandit = bandit_of(world, tmp_path, build, replace(ARGS, **changes))
    engines = {"actor": bandit.models.actor, "critic": bandit.models.critic}
    before = {
        name: {key: p.detach().clone() for key, p in engine.module.named_parameters()}
        for name, engine in engines.items()
    }
    history = bandit.train()
    assert history[0]["policy/first_ratio_error"] == pytest.approx(0.0, abs=1e-5)
    assert history[0]["kl/ref"] == pytest.approx(0.0, abs=1e-5)
    assert abs(history[-1]["kl/ref"]) > 1e-3
    for name, engine in engines.items():
        changed = {
            key for key, p in engine.module.named_parameters() if not p.equal(before[name][key])
        }
        trained = {key for key in before[name] if ".lora_" in key}
        assert trained
        assert changed == trained | ({"head.weight"} if name == "critic" else set())
