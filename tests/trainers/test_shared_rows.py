"""Rows of several sequences read each of them as if it stood alone: losses, scores, gradients."""

import copy
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import CPU, PAD_ID, build_tokenizer, gpt2, llama, rows_of, write_lm
from training.data.collate import collate_groups, collate_texts
from training.data.packing import Document
from training.models.cpu_blocks import use_cpu_blocks
from training.models.loading import load_causal_lm
from training.models.policy import Policy
from training.models.scalar import ScalarSettings, build_scalar_model
from training.objectives.sft import cross_entropy

TEXTS = rows_of([9, 4, 1, 12, 6])
TARGETS = [[False, *[True] * (len(text) - 1)] for text in TEXTS]
TOGETHER = [[3, 1], [0, 4, 2]]  # rows of 16 tokens, so that none or nearly none is padding
LOOSE = [[3, 0], [4, 1], [2]]
PROMPTS = rows_of([7, 3], seed=1)
RESPONSES = [rows_of([3, 6, 2], seed=2), rows_of([5, 1], seed=3)]
SHARED = [  # the first prompt with all three responses, cut in two, and beside the other prompt
    [[(0, (0, 1, 2))], [(1, (0, 1))]],
    [[(0, (0, 2))], [(0, (1,)), (1, (0, 1))]],
    [[(1, (1, 0)), (0, (2, 1, 0))]],
]
# build, attention, our blocks, gradient checkpointing
KINDS: dict[str, tuple[Any, str, bool, bool]] = {
    "gpt2-blocks": (gpt2, "eager", True, False),
    "gpt2-blocks-checkpointing": (gpt2, "eager", True, True),
    "gpt2-eager": (gpt2, "eager", False, False),
    "gpt2-eager-checkpointing": (gpt2, "eager", False, True),
    "gpt2-sdpa": (gpt2, "sdpa", False, False),
    "llama-eager": (llama, "eager", False, False),
    "llama-sdpa": (llama, "sdpa", False, True),
}
# fp32 sums in another order: more terms are 0, and not at the same places.
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")


@pytest.fixture(params=KINDS)
def prepared(request, tmp_path):
    """A folder with a model, and what gets a model out of it ready."""
    build, attention, blocks, checkpointing = KINDS[request.param]
    tokenizer = build_tokenizer()
    path = write_lm(tmp_path, build(len(tokenizer)), tokenizer)

    def prepare(backbone):
        backbone.set_attn_implementation(attention)
        if blocks:
            use_cpu_blocks(backbone)
        if checkpointing:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        return backbone.train()

    return path, prepare


@pytest.fixture
def policy(prepared):
    path, prepare = prepared
    lm = prepare(load_causal_lm(path, build_tokenizer(), device=CPU, dropout=0.0))
    return Policy(lm, pad_id=PAD_ID, compute_dtype=torch.float32)


def scalar(prepared, pooling):
    path, prepare = prepared
    settings = ScalarSettings("linear", pooling)
    model = build_scalar_model(path, settings, device=CPU, compute_dtype=torch.float32)
    prepare(model.backbone)
    return model


def text_rows(places):
    return [[Document(i, (0,), len(TEXTS[i])) for i in row] for row in places]


def group_rows(places):
    return [
        [Document(n, ks, len(PROMPTS[n]) + sum(len(RESPONSES[n][k]) for k in ks)) for n, ks in row]
        for row in places
    ]


def loss_of(policy, places, texts=TEXTS):
    """The summed loss of the texts in these rows and all gradients."""
    policy.zero_grad()
    batch = collate_texts(text_rows(places), texts, TARGETS, pad_id=PAD_ID, device=CPU)
    loss, logprobs = policy(*batch.inputs, token_loss=cross_entropy)
    loss.backward()
    return loss.detach(), gradients(policy), logprobs


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def scores_of(model, places, responses=RESPONSES):
    """The scores of all responses in their order, and the gradients of a sum that tells them."""
    model.zero_grad()
    rows = group_rows(places)
    batch, ends = collate_groups(rows, PROMPTS, responses, pad_id=PAD_ID, device=CPU)
    readings = model(batch.input_ids, batch.attention_mask)
    scores = torch.stack([readings[ends[key]] for key in sorted(ends)])
    (scores * torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])).sum().backward()
    return scores.detach(), gradients(model)


APART = [[(n, (k,))] for n in (0, 1) for k in range(len(RESPONSES[n]))]


@pytest.mark.parametrize("places", [TOGETHER, LOOSE], ids=["full", "padded"])
def test_packed_texts_have_the_loss_and_gradients_of_rows_apart(policy, places):
    expected = loss_of(policy, [[0], [1], [2], [3], [4]])
    loss, grads, _ = loss_of(policy, places)
    assert_close(loss, expected[0])
    for name, gradient in expected[1].items():
        assert_close(grads[name], gradient, **NEAR)


def test_a_text_does_not_see_its_neighbours(policy):
    changed = [*TEXTS]
    changed[4] = rows_of([6], seed=9)[0]
    before, after = (loss_of(policy, TOGETHER, texts)[2] for texts in (TEXTS, changed))
    ends = [0, 11, 14, 22, 27]  # of texts 3, 1, 0, 4, whose targets are all tokens but the first
    for index, is_same in enumerate([True, True, True, False]):
        own = slice(ends[index], ends[index + 1])
        assert torch.equal(before[own], after[own]) == is_same
    assert len(before) == ends[-1]


@pytest.mark.parametrize("pooling", ["last", "mean", "weighted_mean"])
@pytest.mark.parametrize("places", SHARED, ids=["groups", "parts", "one row"])
def test_responses_that_share_a_prompt_score_and_teach_as_apart(prepared, places, pooling):
    model = scalar(prepared, pooling)
    expected = scores_of(model, APART)
    scores, grads = scores_of(model, places)
    assert_close(scores, expected[0], **NEAR)
    assert len(grads) == len(expected[1])
    for name, gradient in expected[1].items():
        assert_close(grads[name], gradient, **NEAR)


def test_a_response_does_not_see_the_others(prepared):
    model = scalar(prepared, "last")
    changed = copy.deepcopy(RESPONSES)
    changed[0][1] = rows_of([6], seed=9)[0]
    before, after = (
        scores_of(model, SHARED[0], responses)[0] for responses in (RESPONSES, changed)
    )
    assert (before == after).tolist() == [True, False, True, True, True]


def test_rows_of_one_sequence_keep_their_plain_mask(prepared):
    batch, _ = collate_groups(group_rows(APART), PROMPTS, RESPONSES, pad_id=PAD_ID, device=CPU)
    assert batch.attention_mask.dim() == 2
    texts = collate_texts(text_rows([[0], [3]]), TEXTS, TARGETS, pad_id=PAD_ID, device=CPU)
    assert texts.attention_mask.dim() == 2
    nothing, ends = collate_groups([], PROMPTS, RESPONSES, pad_id=PAD_ID, device=CPU)
    assert not nothing.target_mask.any()
    assert not ends
