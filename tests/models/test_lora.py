"""LoRA on both kinds of linear layers: GPT-2's Conv1D and Llama's Linear."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.tiny_models import CPU, PAD_ID, build_tokenizer, load_lm, padded, rows_of
from training.arguments.sft import SFTArgs
from training.models import lora
from training.models.cpu_blocks import use_cpu_blocks
from training.models.lora import add_lora, list_linear_names, merge_lora, save_adapter
from training.models.policy import Policy
from training.models.scalar import ScalarModel, ScalarSettings, build_scalar_model
from training.objectives.sft import cross_entropy

ARGS = SFTArgs(lora_rank=3, zero_stage=0)
NAMES = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "llama": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
}
TOKENS, MASK = padded(rows_of([5, 9, 3]))


@pytest.fixture(params=["gpt2", "llama"])
def name(request):
    return request.param


@pytest.fixture
def lm(name, lm_folders):
    return load_lm(lm_folders[name])


def logits(lm):
    with torch.no_grad():
        return lm(input_ids=TOKENS, attention_mask=MASK.long()).logits[MASK]


def shake(lm):
    """Give adapters, which start as zero, values as after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained(lm).values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return lm


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_every_linear_layer_but_the_head_gets_an_adapter(name, lm):
    assert list_linear_names(lm) == NAMES[name]
    add_lora(lm, ARGS)
    layers = [m for m in lm.modules() if hasattr(m, "base_layer")]
    assert len(layers) == 2 * len({"c_proj2", *NAMES[name]} if name == "gpt2" else NAMES[name])
    assert not hasattr(lm.get_output_embeddings(), "base_layer")


def test_rank_zero_changes_nothing(lm):
    before = weights_of(lm)
    add_lora(lm, SFTArgs(zero_stage=0))
    assert weights_of(lm).keys() == before.keys()
    assert all(p.requires_grad for p in lm.parameters())


def test_a_new_adapter_changes_no_logits_and_depends_on_the_seed_alone(name, lm_folders):
    first, second = load_lm(lm_folders[name]), load_lm(lm_folders[name])
    expected = logits(first)
    add_lora(first, ARGS)
    torch.rand(5)
    add_lora(second, ARGS)
    assert_close(logits(first), expected, rtol=0, atol=0)
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_adapters_train_and_the_loss_decreases(lm, dtype):
    add_lora(lm, ARGS)
    policy = Policy(lm, pad_id=PAD_ID, compute_dtype=dtype)
    use_cpu_blocks(policy)
    before = weights_of(lm)
    targets = MASK.clone()
    targets[:, 0] = False
    optimizer = torch.optim.AdamW(trained(lm).values(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss, _ = policy(TOKENS, MASK, targets, token_loss=cross_entropy)
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is None for p in lm.parameters() if not p.requires_grad)
        if len(losses) == 2:  # in the first step B is zero, and A has no gradient yet
            assert all(p.grad.abs().sum() > 0 for p in trained(lm).values())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    changed = {name for name, p in lm.named_parameters() if not p.equal(before[name])}
    assert changed == set(trained(lm))
    assert all(".lora_" in name for name in changed)


def test_a_merged_model_gives_the_logits_of_the_adapted_one(name, lm, lm_folders):
    add_lora(lm, ARGS)
    expected = logits(shake(lm))
    plain = load_lm(lm_folders[name])
    start = logits(plain)
    missing, unexpected = plain.load_state_dict(merge_lora(lm, weights_of(lm)), strict=False)
    assert unexpected == []
    assert set(missing) <= {"lm_head.weight"}  # tied
    assert_close(logits(plain), expected, rtol=1e-4, atol=1e-4)
    assert (logits(plain) - start).abs().max() > 0.1


def in_bf16(model):
    """Convert frozen matrices to bf16, as the engine does."""
    for name, weight in model.named_parameters():
        if name.endswith(".base_layer.weight"):
            weight.data = weight.data.bfloat16()
    return model


@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_the_merged_model_is_the_unrounded_base_plus_the_adapter(name, lm, lm_folders, kind):
    if kind == "scalar":
        path = lm_folders[name]
        model: Any = build_scalar_model(
            path, ScalarSettings(), device=CPU, compute_dtype=torch.float32
        )
        add_lora(model.backbone, ARGS)
    else:
        add_lora(model := lm, ARGS)
    shake(model)
    expected = merge_lora(model, weights_of(model))
    rounded = weights_of(in_bf16(model))
    found = merge_lora(model, rounded)
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert found[key].equal(weight), key


def test_a_base_that_changed_on_disk_is_not_merged(lm, name, lm_folders, caplog):
    add_lora(lm, ARGS)
    weights = weights_of(in_bf16(shake(lm)))
    first, *_, last = (key for key in weights if key.endswith(".base_layer.weight"))
    weights[last] = weights[last] + 1.0  # as if the folder had been written over

    def rounded(key):
        layer = lm.get_submodule(key.removesuffix(".base_layer.weight"))
        return weights[key].float() + layer.get_delta_weight(lora.ADAPTER).detach()

    for path, said in ((lm_folders[name], "is no longer what this run began with"), ("/gone", "")):
        lm.base_model.config.name_or_path = path
        found = merge_lora(lm, weights)
        for key in (first, last):
            assert found[key.replace(".base_layer.", ".")].equal(rounded(key))
        assert f"as it was trained with, rounded: {path} {said}".strip() in caplog.text


def test_alpha_scales_the_adapters_change(lm):
    add_lora(lm, SFTArgs(lora_rank=4, lora_alpha=2.0, zero_stage=0))
    shake(lm)
    layer = next(m for m in lm.modules() if hasattr(m, "base_layer"))
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    delta = layer.get_delta_weight(lora.ADAPTER)
    found = delta if delta.shape == product.shape else delta.T
    assert_close(found, product * 2.0 / 4)


# peft's model class uses an older name of transformers.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_reads_the_adapter_of_a_causal_model(name, lm, lm_folders, tmp_path):
    add_lora(lm, ARGS)
    expected = logits(shake(lm))
    save_adapter(lm, weights_of(lm), tmp_path, base=lm_folders[name], task="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(lm_folders[name])
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


# peft's model class uses an older name of transformers.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_reads_the_adapter_of_a_reward_model_with_its_head(name, lm_folders, tmp_path):
    path = lm_folders[name]
    model = build_scalar_model(path, ScalarSettings(), device=CPU, compute_dtype=torch.float32)
    add_lora(model.backbone, ARGS)
    assert trained(model).keys() >= {"head.weight"}
    shake(model)
    inner = {n.removeprefix("backbone."): w for n, w in weights_of(model).items()}
    head: Any = model.head
    save_adapter(
        model.backbone,
        inner,
        tmp_path,
        base=path,
        task="SEQ_CLS",
        prefix=f"{model.backbone.base_model_prefix}.",
        head={"score.weight": head.weight.detach()},
    )
    base: Any = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=1, pad_token_id=build_tokenizer().pad_token_id
    )
    found = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = ScalarModel.scores(model(TOKENS, MASK), MASK)
        scores = found(input_ids=TOKENS, attention_mask=MASK.long()).logits[:, 0]
    assert_close(scores, expected, rtol=1e-4, atol=1e-4)
