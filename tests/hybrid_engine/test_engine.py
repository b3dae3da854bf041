import pytest
import torch

from tests.tiny_models import CPU, EOS_ID, PAD_ID, load_lm, rows_of
from training.hybrid_engine.cached_model import CachedModelDecoder
from training.hybrid_engine.engine import HybridEngine, choose_decoder
from training.hybrid_engine.gpt2 import GPT2Decoder
from training.hybrid_engine.sampling import SampleKey, Sampling

PROMPTS = rows_of([3, 9, 1, 6, 4])
KEYS = [SampleKey(seed=0, step=1, prompt_id=n, sample_index=0) for n in range(len(PROMPTS))]


def engine_of(lm):
    return HybridEngine(
        lm,
        Sampling(max_new_tokens=12, temperature=0.7),
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        device=CPU,
        dtype=torch.float32,
        batch_size=3,
    )


@pytest.fixture
def engine(lm):
    return engine_of(lm)


def tokens_of(engine):
    with engine.generation() as generate:
        return generate(PROMPTS, KEYS).tokens.tolist()


def test_gpt2_uses_its_fast_decoder_and_others_the_generic_one(lm_folders):
    gpt2, llama = load_lm(lm_folders["gpt2"]), load_lm(lm_folders["llama"])
    assert isinstance(choose_decoder(gpt2, torch.float32), GPT2Decoder)
    assert isinstance(choose_decoder(llama, torch.float32), CachedModelDecoder)


def test_generation_leaves_the_weights_bitwise_unchanged(lm, engine):
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    pointers = {name: p.data_ptr() for name, p in lm.named_parameters()}
    tokens_of(engine)
    after = lm.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert {name: p.data_ptr() for name, p in lm.named_parameters()} == pointers
    assert all(p.requires_grad and p.grad is None for p in lm.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_returns_to_its_previous_mode(lm, engine, training):
    lm.train(training)
    tokens_of(engine)
    assert all(module.training is training for module in lm.modules())
    with pytest.raises(RuntimeError, match="interrupted"), engine.generation():
        raise RuntimeError("interrupted")
    assert all(module.training is training for module in lm.modules())


def test_generation_uses_the_current_weights(lm, engine):
    first = tokens_of(engine)
    assert tokens_of(engine) == first
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    assert tokens_of(engine) != first
    lm.load_state_dict(before)
    assert tokens_of(engine) == first


def test_training_continues_after_generation(lm, engine):
    tokens_of(engine)
    lm(input_ids=torch.tensor([PROMPTS[0]])).logits.sum().backward()
    assert all(p.grad is not None for p in lm.parameters() if p.requires_grad)


def test_generation_runs_without_the_dropout_of_training(lm, engine):
    quiet = tokens_of(engine)
    for module in lm.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    assert tokens_of(engine) == quiet


def test_streaming_gives_an_equal_response_token_by_token(engine):
    whole = tokens_of(engine)
    for prompt, key, row in zip(PROMPTS, KEYS, whole, strict=True):
        seen: list[int] = []
        streamed = engine.stream(prompt, key, seen.append)
        assert seen == streamed == [token for token in row if token != PAD_ID]
