from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.worked import EXACT, SINGLE, worked
from training import tensors
from training.tensors import (
    last_position,
    log_softmax_at,
    masked_mean,
    masked_moments,
    masked_sum,
    mean_and_variance,
    position_ids_from_mask,
    predicting_positions,
    response_mask_from_lengths,
    right_pad,
    scatter_to_mask,
    summed_cross_entropy,
    token_logprobs,
    whiten,
)

NAN = float("nan")
HOLES = torch.tensor([[False, True, True, False], [True, True, True, True]])


def whitened(values, mask, keep_mean):
    mean, variance = mean_and_variance(masked_moments(values, mask))
    return whiten(values, mask, mean=mean, variance=variance, keep_mean=keep_mean)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


class TestMasks:
    def test_rows_are_padded_on_the_right(self):
        tokens, mask = right_pad([[5, 6, 7], [8]], pad_id=9)
        assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
        assert mask.tolist() == [[True, True, True], [True, False, False]]

    def test_positions_count_the_real_tokens_before(self):
        inputs, expected = worked("position_ids")
        mask = inputs["query_response"] != inputs["pad_id"]
        assert mask.equal(expected["attention_mask"])
        assert position_ids_from_mask(mask).tolist() == expected["position_ids"].tolist()

    def test_a_target_is_predicted_one_position_earlier(self):
        targets = torch.tensor([[False, True, False, True], [False, False, False, False]])
        assert predicting_positions(targets).tolist() == [
            [True, False, True, False],
            [False, False, False, False],
        ]
        assert targets[0].tolist() == [False, True, False, True]

    def test_the_first_token_of_a_sequence_cannot_be_predicted(self):
        with pytest.raises(ValueError, match="first token"):
            predicting_positions(torch.tensor([[False, True], [True, False]]))

    def test_a_response_mask_covers_each_length(self):
        mask = response_mask_from_lengths(torch.tensor([0, 2, 3]), 3)
        assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3]

    def test_the_last_position_is_the_last_real_token_on_whichever_side_padding_is(self):
        masks = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
        assert last_position(masks).tolist() == [3, 1, 2, 3]

    def test_packed_values_go_back_in_row_order(self):
        placed = scatter_to_mask(torch.arange(1.0, 7.0), HOLES)
        assert placed.tolist() == [[0, 1, 2, 0], [3, 4, 5, 6]]
        packed = drawn(2, 4)
        assert_close(scatter_to_mask(packed[HOLES], HOLES), packed.masked_fill(~HOLES, 0.0))

    def test_sums_and_means_leave_padding_out_whatever_it_holds(self):
        values = torch.tensor([[NAN, 1.0, 2.0, NAN], [3.0, 4.0, 5.0, 6.0]])
        assert masked_sum(values, HOLES).item() == 21.0
        assert masked_mean(values, HOLES).item() == 3.5
        assert masked_mean(values, torch.zeros_like(HOLES)).item() == 0.0


class TestWhitening:
    @pytest.mark.parametrize(("keep_mean", "name"), [(False, "centred"), (True, "mean_kept")])
    @pytest.mark.parametrize("kind", ["dense", "masked"])
    def test_values_are_the_worked_numbers(self, kind, keep_mean, name):
        inputs, expected = worked("whiten")
        numbers = expected[f"{kind}_biased_{name}"]
        values = inputs[kind]
        mask = inputs["mask"] if kind == "masked" else torch.ones(values.shape, dtype=torch.bool)
        mean, variance = mean_and_variance(masked_moments(values, mask))
        assert mean == pytest.approx(numbers["mean"], rel=1e-8)
        assert variance == pytest.approx(numbers["var"], rel=1e-8)
        found = whitened(values, mask, keep_mean)
        # Where the mask is False the worked numbers are 0 before the mean is added back.
        assert_close(found, numbers["values"].masked_fill(~mask, 0.0), **EXACT)

    def test_padding_may_hold_anything(self):
        clean = whitened(drawn(2, 4), HOLES, keep_mean=True)
        for what in (NAN, 1e30):
            assert_close(whitened(drawn(2, 4).masked_fill(~HOLES, what), HOLES, True), clean)

    def test_moments_of_parts_add_up_to_those_of_the_whole(self):
        values = drawn(2, 4) + 100.0
        parts = masked_moments(values[:1], HOLES[:1]) + masked_moments(values[1:], HOLES[1:])
        kept = values[HOLES].double()
        mean, variance = mean_and_variance(parts)
        assert mean == pytest.approx(kept.mean().item(), rel=1e-12)
        assert variance == pytest.approx(kept.var(correction=0).item(), rel=1e-8)

    def test_nothing_and_one_value_are_no_division_by_zero(self):
        nothing = torch.zeros_like(HOLES)
        assert mean_and_variance(masked_moments(drawn(2, 4), nothing)) == (0.0, 0.0)
        one = nothing.clone()
        one[0, 0] = True
        assert whitened(drawn(2, 4), one, keep_mean=False).abs().max() < 1e-3


class TestLogProbs:
    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_temperature_divides_the_logits(self, temperature):
        inputs, expected = worked("logprob_with_temperature")
        logprobs, entropies = log_softmax_at(
            inputs["logits"],
            inputs["actions"],
            temperature=temperature,
            banned_token=None,
            with_entropy=True,
        )
        numbers = expected[f"T={temperature}"]
        assert_close(logprobs.double(), numbers["logprob"], **SINGLE)
        assert_close(entropies.double(), numbers["entropy"], **SINGLE)

    def test_a_banned_token_has_no_probability_and_leaves_the_others_theirs(self):
        logits = drawn(1, 6) * 3
        logits[0, 2] = 50.0
        every = torch.arange(6)
        logprobs, entropies = log_softmax_at(
            logits.expand(6, 6), every, temperature=0.7, banned_token=2, with_entropy=True
        )
        others = every != 2
        alone, alone_entropy = log_softmax_at(
            logits[:, others].expand(5, 5),
            torch.arange(5),
            temperature=0.7,
            banned_token=None,
            with_entropy=True,
        )
        assert_close(logprobs[others], alone)
        assert logprobs[2].exp() == 0
        assert_close(entropies, alone_entropy[:1].expand(6))

    def test_logits_of_lower_precision_are_taken_in_fp32(self):
        logits = drawn(2, 300).bfloat16()
        tokens = torch.tensor([3, 4])
        logprobs, _ = log_softmax_at(
            logits, tokens, temperature=1.0, banned_token=None, with_entropy=False
        )
        assert logprobs.dtype == torch.float32
        exact = logits.double().log_softmax(-1)[[0, 1], [3, 4]]
        assert_close(logprobs.double(), exact, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("banned_token", [None, 4])
    @pytest.mark.parametrize("rows", [1, 7, 16])
    def test_chunks_of_any_size_give_the_same_numbers_and_gradients(
        self, monkeypatch, rows, banned_token
    ):
        def run(limit):
            monkeypatch.setattr(tensors, "LOGIT_CHUNK", limit)
            head = nn.Linear(8, 20)
            with torch.no_grad():
                head.weight.copy_(drawn(20, 8, seed=1))
                head.bias.copy_(drawn(20, seed=2))
            hidden = drawn(17, 8).requires_grad_()
            tokens = torch.arange(17) % 4
            score = partial(
                token_logprobs,
                hidden,
                head,
                tokens,
                vocab_size=20,
                temperature=0.7,
                banned_token=banned_token,
            )
            logprobs, entropies = score(with_entropy=True)
            (logprobs * drawn(17, seed=3)).sum().backward()
            with torch.no_grad():
                again = score(with_entropy=True)
            return logprobs, entropies, *again, hidden.grad, head.weight.grad, head.bias.grad

        for chunked, whole in zip(run(rows * 20), run(10**9), strict=True):
            assert_close(chunked, whole)


class TestSummedCrossEntropy:
    @pytest.mark.parametrize("banned_token", [None, 4])
    @pytest.mark.parametrize("count", [1, 512, 1300])
    def test_it_is_the_cross_entropy_of_autograd_and_so_are_its_gradients(
        self, count, banned_token
    ):
        tokens = torch.arange(count) % 4
        tokens[::3] += 5
        hidden, weight = drawn(count, 8).requires_grad_(), drawn(11, 8, seed=1).requires_grad_()
        plain_hidden = hidden.detach().double().requires_grad_()
        plain_weight = weight.detach().double().requires_grad_()

        loss = summed_cross_entropy(
            hidden, weight, tokens, banned_token=banned_token, dtype=torch.float32
        )
        (loss * 0.37).backward()

        logits = plain_hidden @ plain_weight.T
        if banned_token is not None:
            logits = logits.index_fill(1, torch.tensor([banned_token]), -torch.inf)
        plain = nn.functional.cross_entropy(logits, tokens, reduction="sum")
        (plain * 0.37).backward()

        # fp32 sums over up to 1,300 rows against float64.
        close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4}
        assert_close(loss.double(), plain, **close)
        assert_close(hidden.grad.double(), plain_hidden.grad, rtol=1e-5, atol=1e-6)
        assert_close(weight.grad.double(), plain_weight.grad, **close)
        if banned_token is not None:
            assert (weight.grad[banned_token] == 0).all()

    def test_gradients_add_to_those_of_a_tied_use_of_the_weight(self):
        weight = drawn(11, 8, seed=1).requires_grad_()
        tokens = torch.tensor([1, 2, 3])

        def gradient(of):
            (found,) = torch.autograd.grad(of, weight)
            return found

        def loss():
            return summed_cross_entropy(
                weight[tokens], weight, tokens, banned_token=None, dtype=torch.float32
            )

        plain = nn.functional.cross_entropy(weight[tokens] @ weight.T, tokens, reduction="sum")
        assert_close(gradient(loss()), gradient(plain))

    def test_a_micro_batch_without_targets_is_zero_with_zero_gradients(self):
        hidden, weight = drawn(0, 8).requires_grad_(), drawn(11, 8).requires_grad_()
        tokens = torch.zeros(0, dtype=torch.long)
        loss = summed_cross_entropy(hidden, weight, tokens, banned_token=4, dtype=torch.float32)
        loss.backward()
        assert loss.item() == 0.0
        assert (weight.grad == 0).all()

    def test_bf16_products_stay_near_fp32(self):
        hidden, weight = drawn(600, 8), drawn(11, 8, seed=1)
        tokens = torch.arange(600) % 11
        losses = [
            summed_cross_entropy(hidden, weight, tokens, banned_token=None, dtype=dtype).item()
            for dtype in (torch.float32, torch.bfloat16)
        ]
        assert losses[1] == pytest.approx(losses[0], rel=2e-3)  # bf16 keeps 8 bits a product
