import pytest
import torch
from torch.testing import assert_close

from tests.worked import EXACT, worked
from training.tensors import (
    block_attention_mask,
    compute_position_ids,
    find_last_position,
    make_length_mask,
    masked_mean,
    masked_mean_and_variance,
    masked_sum,
    pad_right,
    scatter_to_mask,
    shift_target_mask,
    whiten,
)

NAN = float("nan")
HOLES = torch.tensor([[False, True, True, False], [True, True, True, True]])


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


class TestMasks:
    def test_rows_are_padded_on_the_right(self):
        tokens, mask = pad_right([[5, 6, 7], [8]], pad_id=9)
        assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
        assert mask.tolist() == [[True, True, True], [True, False, False]]

    def test_positions_count_the_real_tokens_before(self):
        inputs, expected = worked("position_ids")
        mask = inputs["query_response"] != inputs["pad_id"]
        assert mask.equal(expected["attention_mask"])
        assert compute_position_ids(mask).tolist() == expected["position_ids"].tolist()

    def test_in_rows_of_several_sequences_each_token_reads_its_trunk_and_its_branch(self):
        # Document 1: a prompt of two tokens, branches of two and one; document 2; padding.
        documents = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 0]])
        branches = torch.tensor([[0, 0, 1, 1, 2, 0, 0, 0]])
        mask = block_attention_mask(documents, branches)
        reads = [row.nonzero()[:, 0].tolist() for row in mask[0]]
        assert reads == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6], []]
        assert compute_position_ids(mask).tolist() == [[0, 1, 2, 3, 2, 0, 1, 0]]

    def test_a_target_is_predicted_one_position_earlier(self):
        targets = torch.tensor([[False, True, False, True], [False, False, False, False]])
        assert shift_target_mask(targets).tolist() == [
            [True, False, True, False],
            [False, False, False, False],
        ]
        assert targets[0].tolist() == [False, True, False, True]

    def test_the_first_token_of_a_sequence_cannot_be_predicted(self):
        with pytest.raises(ValueError, match="first token"):
            shift_target_mask(torch.tensor([[False, True], [True, False]]))

    def test_a_response_mask_covers_each_length(self):
        mask = make_length_mask(torch.tensor([0, 2, 3]), 3)
        assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3]

    def test_the_last_position_is_the_last_real_token_on_whichever_side_padding_is(self):
        masks = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
        assert find_last_position(masks).tolist() == [3, 1, 2, 3]

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
        mean, variance = masked_mean_and_variance(values, mask)
        assert mean == pytest.approx(numbers["mean"], rel=1e-8)
        assert variance == pytest.approx(numbers["var"], rel=1e-8)
        found = whiten(values, mask, keep_mean=keep_mean)
        # Where the mask is False the worked numbers are 0 before the mean is added back.
        assert_close(found, numbers["values"].masked_fill(~mask, 0.0), **EXACT)

    def test_padding_may_hold_anything(self):
        clean = whiten(drawn(2, 4), HOLES, keep_mean=True)
        for what in (NAN, 1e30):
            dirty = drawn(2, 4).masked_fill(~HOLES, what)
            assert_close(whiten(dirty, HOLES, keep_mean=True), clean)

    def test_mean_and_variance_are_exact_far_from_zero(self):
        values = drawn(2, 4) + 100.0
        kept = values[HOLES].double()
        mean, variance = masked_mean_and_variance(values, HOLES)
        assert mean == pytest.approx(kept.mean().item(), rel=1e-12)
        assert variance == pytest.approx(kept.var(correction=0).item(), rel=1e-8)

    def test_nothing_and_one_value_are_no_division_by_zero(self):
        nothing = torch.zeros_like(HOLES)
        assert masked_mean_and_variance(drawn(2, 4), nothing) == (0.0, 0.0)
        one = nothing.clone()
        one[0, 0] = True
        assert whiten(drawn(2, 4), one).abs().max() < 1e-3
