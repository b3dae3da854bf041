from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import CPU, EOS_ID, PAD_ID, load_lm, padded, rows_of
from training.data.chat import TemplateTokenizer
from training.data.collate import collate
from training.data.encode import encode_dialogues
from training.data.records import Conversation, Demonstration
from training.data.values import Message
from training.models.loading import load_causal_lm
from training.models.policy import Policy
from training.objectives.sft import cross_entropy

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # fp32, values of order 1 to 10
ROWS = rows_of([3, 9, 17, 6, 11])
TARGETS = [2, 4, 1, 5, 10]  # at the end of each row
TEMPERATURE = 0.7


@pytest.fixture(params=["eager", "sdpa"])
def lm(request, lm_folder):
    found = load_lm(lm_folder)
    found.set_attn_implementation(request.param)
    return found


@pytest.fixture
def policy(lm):
    return Policy(lm, pad_id=PAD_ID, compute_dtype=torch.float32).train()


def batch_of(rows, targets, **padding):
    """Tokens, attention mask and target mask [B, L]; the targets are each row's last."""
    tokens, attention = padded(rows, **padding)
    left = attention.long().argmax(dim=1)
    target = torch.zeros_like(attention)
    for index, (row, count) in enumerate(zip(rows, targets, strict=True)):
        end = int(left[index]) + len(row)
        target[index, end - count : end] = True
    return tokens, attention, target


def read(policy, rows, targets, **padding):
    """Log-probs and entropies of each row's targets."""
    batch = batch_of(rows, targets, **padding)
    logprobs, entropies = policy(*batch, TEMPERATURE, with_entropy=True)
    return torch.stack([logprobs, entropies], dim=1).split(targets)


def gradients(policy):
    found = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    return found


def largest(tensors):
    return max(tensor.abs().max().item() for tensor in tensors.values())


@torch.no_grad()
def plainly(lm, rows, targets):
    """Compute these numbers with the model's forward, each row alone and without padding."""
    found = []
    for row, count in zip(rows, targets, strict=True):
        logits = lm(input_ids=torch.tensor([row])).logits[0, -count - 1 : -1] / TEMPERATURE
        logits[:, PAD_ID] = -torch.inf
        every = logits.log_softmax(-1)
        logprobs = every.gather(1, torch.tensor(row[-count:])[:, None])[:, 0]
        found.append(torch.stack([logprobs, -(every.exp() * every).nansum(-1)], dim=1))
    return found


@pytest.mark.parametrize(("left", "right"), [(0, 0), (7, 0), (0, 7), (3, 5)])
def test_log_probs_do_not_depend_on_padding_or_neighbours(policy, lm, left, right):
    expected = plainly(lm, ROWS, TARGETS)
    assert_close(list(read(policy, ROWS, TARGETS, left=left, right=right)), expected, **CLOSE)
    for index in range(len(ROWS)):
        alone = read(policy, [ROWS[index]], [TARGETS[index]], left=left, right=right)
        assert_close(alone[0], expected[index], **CLOSE)


def test_the_content_of_padding_does_not_matter(policy):
    clean = read(policy, ROWS, TARGETS, left=4, right=4)
    for fill in (0, 31, EOS_ID):
        assert_close(read(policy, ROWS, TARGETS, left=4, right=4, fill=fill), clean, **CLOSE)


@pytest.mark.parametrize("token_loss", [None, cross_entropy])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (5, 2)])
def test_gradients_do_not_depend_on_micro_batches_or_padding(policy, token_loss, left, right):
    def accumulate(parts, **padding):
        for rows in parts:
            batch = batch_of([ROWS[i] for i in rows], [TARGETS[i] for i in rows], **padding)
            found, _ = policy(*batch, token_loss=token_loss)
            (-found.sum() if token_loss is None else found).backward()
        return gradients(policy)

    whole = accumulate([[0, 1, 2, 3, 4]])
    split = accumulate([[4, 0], [2], [1, 3]], left=left, right=right)
    assert split.keys() == whole.keys()
    for name, gradient in whole.items():
        assert gradient.isfinite().all()
        assert_close(split[name], gradient, rtol=1e-4, atol=1e-5 * largest(whole), msg=name)


def test_the_token_loss_and_its_gradients_equal_those_of_the_log_probs(policy):
    batch = batch_of(ROWS, TARGETS)
    logprobs, _ = policy(*batch)
    (-logprobs.sum()).backward()
    one_by_one = gradients(policy)
    loss, _ = policy(*batch, token_loss=cross_entropy)
    loss.backward()
    summed = gradients(policy)
    assert_close(loss, -logprobs.sum(), **CLOSE)
    assert summed.keys() == one_by_one.keys()
    for name, gradient in one_by_one.items():
        assert_close(summed[name], gradient, rtol=1e-4, atol=1e-5 * largest(one_by_one), msg=name)


def test_probabilities_of_all_tokens_but_pad_sum_to_1(policy):
    rows = [[*ROWS[0], token] for token in range(PAD_ID + 1)]
    logprobs = torch.cat(read(policy, rows, [1] * len(rows)))[:, 0]
    assert logprobs[:PAD_ID].exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert logprobs[PAD_ID].exp() == 0


def test_dropout_left_on_changes_the_log_probs(lm_folders, tokenizer):
    # The counterpart of all the above, which run in training mode: they could fail.
    noisy = load_causal_lm(lm_folders["gpt2"], tokenizer, device=CPU, dropout=None)
    policy = Policy(noisy, pad_id=PAD_ID, compute_dtype=torch.float32).train()
    first = read(policy, ROWS, TARGETS)[0]
    assert (first - read(policy, ROWS, TARGETS)[0]).abs().max() > 1e-3


def demonstration(tokenizer):
    record = Demonstration("w1 w2 w3", "w4 w5", "a:1")
    (encoded,) = encode_dialogues([record], TemplateTokenizer(tokenizer), max_length=32)
    return encoded.row, [3, 4, 5]


def conversation(tokenizer):
    turns = [("user", "w1 w2"), ("assistant", "w3"), ("user", "w4"), ("assistant", "w5 w6")]
    record = Conversation(tuple(Message(*turn) for turn in turns), "a:1")
    (outcome,) = encode_dialogues([record], TemplateTokenizer(tokenizer), max_length=32)
    encoded = outcome.row
    assert encoded is not None
    ids = encoded.input_ids
    # Two turns of the assistant: the word(s) and EOS of each.
    first = ids.index(3)
    second = ids.index(5)
    assert ids[first + 1] == ids[second + 2] == EOS_ID
    return encoded, [first, first + 1, second, second + 1, second + 2]


@pytest.mark.parametrize("make", [demonstration, conversation])
def test_stage_1_trains_on_eos(lm_folders, tokenizer, make):
    """The loss is the cross-entropy of the responses with each EOS, and a step on it raises EOS."""
    encoded, targets = make(tokenizer)
    lm = load_lm(lm_folders["gpt2"])
    policy = Policy(lm, pad_id=tokenizer.pad_token_id, compute_dtype=torch.float32)
    ends = [i for i in targets if encoded.input_ids[i] == EOS_ID]
    batch = collate(
        [encoded.input_ids], [encoded.loss_mask], pad_id=tokenizer.pad_token_id, device=CPU
    )

    @torch.no_grad()
    def logprobs_at(positions):
        logits = lm(input_ids=torch.tensor([encoded.input_ids])).logits[0]
        logits[:, PAD_ID] = -torch.inf
        every = logits.log_softmax(-1)
        return torch.stack([every[i - 1, encoded.input_ids[i]] for i in positions])

    expected, before = logprobs_at(targets), logprobs_at(ends)
    loss, _ = policy(
        batch.input_ids, batch.attention_mask, batch.target_mask, token_loss=cross_entropy
    )
    assert_close(loss, -expected.sum(), **CLOSE)
    loss.backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=1e-3)
    assert (logprobs_at(ends) > before).all()
