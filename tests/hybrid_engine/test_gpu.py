"""On a GPU: CUDA graphs, bf16, and the tokens of a CPU."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import EOS_ID, PAD_ID, gpt2, load_lm, rows_of
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = rows_of([1, 2, 3, 5, 8, 13, 4, 7, 9, 6, 11, 2, 3, 5, 8, 1])
KEYS = [SampleKey(seed=0, step=1, prompt_id=n, sample_index=0) for n in range(len(PROMPTS))]


def engine_on(device, lm, **fields):
    return HybridEngine(
        lm.to(torch.device(device)),
        Sampling(max_new_tokens=20, temperature=0.7, **fields),
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        device=torch.device(device),
        dtype=torch.float32,
        batch_size=5,
    )


def rows(responses):
    return [responses.row(index) for index in range(len(PROMPTS))]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_gpu_samples_the_tokens_of_a_cpu(lm_folders, name, greedy):
    found = []
    for device in ("cpu", "cuda"):
        with engine_on(device, load_lm(lm_folders[name]), greedy=greedy).generation() as generate:
            found.append(generate(PROMPTS, KEYS))
    same = [left == right for left, right in zip(*map(rows, found), strict=True)]
    assert sum(same) >= len(same) - 1  # sums in another order may turn one draw
    if all(same):
        assert_close(found[1].logprobs.cpu(), found[0].logprobs, rtol=1e-4, atol=1e-4)


def test_cuda_graphs_use_the_current_weights(lm_folders):
    lm = load_lm(lm_folders["gpt2"])
    engine = engine_on("cuda", lm)

    def drawn():
        with engine.generation() as generate:
            return rows(generate(PROMPTS, KEYS))

    first = drawn()
    assert drawn() == first == drawn()
    other = gpt2(lm.config.vocab_size, seed=9)
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    lm.load_state_dict(other.state_dict())  # copies to where the model is
    assert drawn() != first
    lm.load_state_dict(before)
    assert drawn() == first
