"""The view for generation: LoRA merged, cast matrices, and untouched trained weights."""

from contextlib import nullcontext

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import CPU, EOS_ID, PAD_ID, build_tokenizer, gpt2, llama, load_lm, rows_of
from training.arguments.sft import SFTArgs
from training.data.collate import collate_responses
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling
from training.hybrid_engine.view import InferenceView
from training.models.lora import add_lora, merge_lora
from training.models.policy import Policy
from training.tensors import scatter_to_mask

PROMPTS = rows_of([3, 9, 1, 6])
KEYS = [SampleKey(seed=0, step=1, prompt_id=n, sample_index=0) for n in range(len(PROMPTS))]
LOW = torch.bfloat16


@pytest.fixture
def adapted(lm):
    """Both architectures, with adapters as training leaves them."""
    add_lora(lm, SFTArgs(lora_rank=3, zero_stage=0))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in (p for p in lm.parameters() if p.requires_grad):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return lm


def view_of(lm, dtype=None):
    return InferenceView(lm, nullcontext, CPU, dtype).refresh()


def generate(lm, dtype):
    engine = HybridEngine(
        lm,
        Sampling(max_new_tokens=12),
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        device=CPU,
        dtype=dtype,
        batch_size=3,
    )
    with engine.generation() as responses_to:
        return responses_to(PROMPTS, KEYS)


def test_without_changes_the_view_is_the_trained_model(lm):
    assert view_of(lm) is lm
    assert view_of(lm, torch.float32) is lm


def test_the_view_holds_the_merged_weights(adapted):
    view = view_of(adapted)
    weights = {name: p.detach() for name, p in adapted.named_parameters()}
    expected = merge_lora(adapted, weights)
    found = dict(view.named_parameters())
    assert found.keys() == expected.keys()
    assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in found.values())


def test_the_view_shares_the_storage_of_unchanged_weights(lm_folders):
    lm = load_lm(lm_folders["llama"])
    view = view_of(lm, LOW)
    embedding, norm = "model.embed_tokens.weight", "model.norm.weight"
    for name in (embedding, norm):
        assert view.get_parameter(name).data_ptr() == lm.get_parameter(name).data_ptr()
    matrices = [m.weight for m in view.modules() if isinstance(m, torch.nn.Linear)]
    assert {weight.dtype for weight in matrices} == {LOW}
    assert view.get_output_embeddings().weight.dtype == LOW
    assert view.get_parameter(embedding).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
def test_generation_leaves_every_weight_and_its_address(adapted, dtype):
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    pointers = {name: p.data_ptr() for name, p in adapted.named_parameters()}
    generate(adapted, dtype)
    assert all(tensor.equal(before[name]) for name, tensor in adapted.state_dict().items())
    assert {name: p.data_ptr() for name, p in adapted.named_parameters()} == pointers


def test_the_view_follows_the_trained_adapters(adapted):
    first = generate(adapted, torch.float32).tokens.tolist()
    with torch.no_grad():
        for weight in (p for p in adapted.parameters() if p.requires_grad):
            weight.mul_(2.0)
    assert generate(adapted, torch.float32).tokens.tolist() != first


# bf16 has 8 bits: a merged matrix is rounded once, the training forward rounds both parts.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (LOW, 0.15)])
def test_log_probs_equal_those_of_the_adapted_training_forward(adapted, dtype, tolerance):
    responses = generate(adapted, dtype)
    rows = [responses.row(index) for index in range(len(PROMPTS))]
    policy = Policy(adapted, pad_id=PAD_ID, compute_dtype=dtype)
    batch = collate_responses(PROMPTS, rows, pad_id=PAD_ID, device=CPU)
    with torch.no_grad():
        logprobs, _ = policy(batch.input_ids, batch.attention_mask, batch.target_mask)
    expected = scatter_to_mask(logprobs, responses.mask)
    assert_close(responses.logprobs, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("build", [gpt2, llama])
def test_building_the_view_does_not_advance_the_generator(build):
    lm = build(len(build_tokenizer()))
    add_lora(lm, SFTArgs(lora_rank=2, zero_stage=0))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    view_of(lm, LOW)
    assert torch.rand(3).equal(expected)
