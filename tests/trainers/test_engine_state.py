"""An engine that loads another's state continues as the other would have, to the last bit."""

from typing import Any

import pytest
import torch

from tests.tiny_models import CPU, build_tokenizer, gpt2, rows_of, write_lm
from training.arguments.sft import SFTArgs
from training.data.encode import EncodedText
from training.models.loading import load_causal_lm
from training.runtime import engine as engines
from training.runtime.engine import collect_weights
from training.runtime.engine_state import collect_engine_state, load_engine_state
from training.trainers.sft.setup import build_engine
from training.trainers.sft.step import SFTTrainer

TEXTS = [
    EncodedText(row, [False, *[True] * (len(row) - 1)]) for row in rows_of([9, 4, 12, 7, 5, 8])
]
LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "ZeRO 2, offload": {"zero_stage": 2, "offload_optimizer": True},
    "ZeRO 3, offload": {"zero_stage": 3, "offload_optimizer": True},
    "ZeRO 3, all offloaded": {
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_param": True,
    },
    "Muon": {"zero_stage": 0, "optimizer": "muon"},
    "LoRA": {"zero_stage": 2, "lora_rank": 2},
    "LoRA, ZeRO 3": {"zero_stage": 3, "lora_rank": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models of one shape and other weights."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(write_lm(tmp_path_factory.mktemp("lm"), gpt2(len(build_tokenizer()))))
    return made


@pytest.fixture
def trainer_of(world, folders):
    def make(layout, start=0):
        args = SFTArgs(**LAYOUTS[layout], dtype="fp32", learning_rate=1e-2, weight_decay=0.1)
        with engines.shard_while_loading(args, world):
            lm = load_causal_lm(folders[start], build_tokenizer(), device=CPU, dropout=0.0)
        engine = build_engine(lm, args, world, build_tokenizer())
        return engine, SFTTrainer(args, world, engine, TEXTS)

    return make


def train(trainer, steps):
    for step in steps:
        trainer.step([step % 6, (step + 1) % 6, (step + 3) % 6], 1.0 / (1 + step))


def assert_equal_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps_before", [0, 3])
def test_it_continues_to_the_last_bit(world, trainer_of, layout, steps_before):
    engine, trainer = trainer_of(layout)
    train(trainer, range(steps_before))
    state = collect_engine_state(engine, world)
    train(trainer, range(steps_before, steps_before + 3))
    expected = collect_weights(engine.module, world)

    start = 0 if "LoRA" in layout else 1  # what is not trained is not in the state
    other, other_trainer = trainer_of(layout, start=start)
    load_engine_state(other, state)
    train(other_trainer, range(steps_before, steps_before + 3))
    assert_equal_weights(collect_weights(other.module, world), expected)


@pytest.mark.parametrize(("saved", "restored"), [("ZeRO 0", "ZeRO 2"), ("ZeRO 2", "ZeRO 3"),
                                                 ("ZeRO 3", "ZeRO 0")])  # fmt: skip
def test_another_zero_stage_continues_from_it(world, trainer_of, saved, restored):
    engine, trainer = trainer_of(saved)
    train(trainer, range(3))
    state = collect_engine_state(engine, world)
    other, other_trainer = trainer_of(restored, start=1)
    load_engine_state(other, state)
    again = collect_engine_state(other, world)
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(again[name], value), name
    train(trainer, range(3, 6))
    train(other_trainer, range(3, 6))
    expected = collect_weights(engine.module, world)
    for name, weight in collect_weights(other.module, world).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


def test_the_state_of_another_model_is_refused(world, trainer_of):
    engine, trainer = trainer_of("ZeRO 0")
    train(trainer, range(1))
    state = collect_engine_state(engine, world)
    name = next(name for name in state if name.endswith("/weight"))
    with pytest.raises(ValueError, match="another model"):
        load_engine_state(engine, {**state, "unknown/weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="has shape"):
        load_engine_state(engine, {**state, name: torch.zeros(1, 2, 3)})
