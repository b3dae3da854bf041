"""The CPU block function compared with the block of `transformers`: outputs and gradients."""

import copy

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import CPU, build_tokenizer, gpt2, write_lm
from training.models.cpu_blocks import _BlockFunction, use_cpu_blocks
from training.models.loading import load_causal_lm

IDS = torch.randint(0, 90, (3, 11), generator=torch.Generator().manual_seed(0))
MASKS = {
    "none": [[1] * 11] * 3,
    "right": [[1] * 11, [1] * 8 + [0] * 3, [1] * 5 + [0] * 6],
    "left": [[1] * 11, [0] * 3 + [1] * 8, [0] * 6 + [1] * 5],
}


@pytest.fixture
def models(tmp_path):
    """A model of transformers, and a copy with our blocks."""
    tokenizer = build_tokenizer()
    path = write_lm(tmp_path, gpt2(len(tokenizer), seed=3), tokenizer)
    plain = load_causal_lm(path, tokenizer, device=CPU, dropout=0.0).train()
    ours = copy.deepcopy(plain)
    use_cpu_blocks(ours)
    return plain, ours


@pytest.fixture
def calls(monkeypatch):
    count: list[int] = []
    original = _BlockFunction.apply

    def counted(*given):
        count.append(1)
        return original(*given)

    monkeypatch.setattr(_BlockFunction, "apply", counted)
    return count


def run(model, mask, dtype):
    """Logits of the real tokens and all gradients of a loss on them."""
    model.zero_grad()
    keep = torch.tensor(mask, dtype=torch.bool)
    low = dtype != torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        logits = model(input_ids=IDS, attention_mask=keep.long()).logits
    logits = logits.float()[keep]
    weights = torch.linspace(-1.0, 1.0, logits.numel()).view_as(logits)
    (logits * weights).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("mask", MASKS)
def test_outputs_and_gradients_equal_those_of_transformers(models, calls, mask):
    plain, ours = (run(model, MASKS[mask], torch.float32) for model in models)
    assert len(calls) == 2
    assert_close(ours[0], plain[0], rtol=1e-5, atol=1e-5)
    for name, gradient in plain[1].items():
        assert_close(ours[1][name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_bf16_is_as_close_to_fp32_as_transformers_is(models):
    exact = run(models[0], MASKS["right"], torch.float32)
    plain, ours = (run(model, MASKS["right"], torch.bfloat16) for model in models)
    for name, gradient in exact[1].items():
        errors = [(found[1][name] - gradient).norm() / gradient.norm() for found in (plain, ours)]
        assert errors[1] < 1.3 * errors[0] + 1e-3, name
    assert (ours[0] - exact[0]).abs().mean() < 1.3 * (plain[0] - exact[0]).abs().mean() + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_layers_skip_padding_and_its_output_is_0(models, monkeypatch, dtype):
    _, ours = models
    rows: list[int] = []
    original = torch.addmm

    def counted(*given):
        rows.append(len(given[1]))
        return original(*given)

    monkeypatch.setattr(torch, "addmm", counted)
    for mask in ("right", "left"):
        logits, _ = run(ours, MASKS[mask], dtype)
        assert logits.isfinite().all()
    assert set(rows) == {11 + 8 + 5}
    keep = torch.tensor(MASKS["right"])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        hidden = ours.transformer.h[0](
            torch.randn(3, 11, 32),
            None,
            torch.zeros(3, 1, 11, 11).masked_fill(~keep.bool()[:, None, None], -1e9),
        )
    assert ((hidden != 0).any(dim=2) == keep).all()


def test_results_without_gradients_are_equal(models):
    keep = torch.ones_like(IDS)
    with torch.no_grad():
        plain, ours = (model(input_ids=IDS, attention_mask=keep).logits for model in models)
    assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_gradient_checkpointing_recomputes_each_block_with_equal_results(models, calls):
    _, ours = models
    expected = run(ours, MASKS["right"], torch.float32)
    assert len(calls) == 2
    ours.gradient_checkpointing_enable({"use_reentrant": False})
    found = run(ours, MASKS["right"], torch.float32)
    assert len(calls) == 2 + 4
    assert_close(found[1], expected[1])


def test_active_dropout_and_a_cache_use_the_original_forward(models, calls):
    _, ours = models
    for block in ours.transformer.h:
        block.mlp.dropout.p = 0.5
    run(ours, MASKS["none"], torch.float32)
    assert not calls
    ours.eval()
    ours(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=True)
    assert not calls


@pytest.mark.parametrize(
    "changes", [{"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}]
)
def test_other_variants_keep_their_forward(tmp_path, calls, changes):
    tokenizer = build_tokenizer()
    path = write_lm(tmp_path, gpt2(len(tokenizer), seed=3, **changes), tokenizer)
    model = load_causal_lm(path, tokenizer, device=CPU, dropout=0.0)
    use_cpu_blocks(model)
    run(model, MASKS["none"], torch.float32)
    assert not calls
