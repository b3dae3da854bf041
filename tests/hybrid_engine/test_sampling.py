import itertools
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from training.hybrid_engine.sampling import (
    SampleKey,
    Sampling,
    draw_uniforms,
    narrow,
    sample_tokens,
)

TINIEST, LARGEST = 0.0, 1.0 - 2.0**-24  # the range of a uniform in fp32
KEY = SampleKey(seed=1, step=2, prompt_id=3, sample_index=4)
# Chi-square is below these in 9,999 of 10,000 draws, by degrees of freedom; keys are fixed.
CHI_SQUARE = {9: 33.72, 10: 35.56}
LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.2, -3.0, 0.7, 1.9, 9.0, -0.4, 0.1, 0.5])
BANNED = 8


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return ((counts - expected).square() / expected).sum().item()


def sample(logits, uniforms, banned_token=BANNED, **fields):
    sampling = Sampling(max_new_tokens=1, **fields)
    rows = logits.expand(len(uniforms), -1).clone()
    return sample_tokens(rows, uniforms, sampling, banned_token=banned_token)[:2]


class TestKeyedUniforms:
    def test_the_numbers_of_a_key_do_not_depend_on_the_other_keys(self):
        keys = [replace(KEY, prompt_id=prompt) for prompt in range(5)]
        together = draw_uniforms(keys, 7)
        for row, key in enumerate(keys):
            assert draw_uniforms([key], 7)[0].equal(together[row])
        assert draw_uniforms(keys[::-1], 7).equal(together.flip(0))

    @pytest.mark.parametrize("field", ["seed", "step", "prompt_id", "sample_index"])
    def test_every_field_of_a_key_matters(self, field):
        keys = [replace(KEY, **{field: value}) for value in range(50)]
        numbers = draw_uniforms(keys, 40)
        assert len(numbers.flatten().unique()) > 0.999 * numbers.numel()
        assert numbers.corrcoef().fill_diagonal_(0.0).abs().max() < 0.7  # of 1,225 pairs of rows

    @pytest.mark.parametrize("field", ["seed", "step", "prompt_id", "sample_index"])
    def test_numbers_are_uniform_over_keys_and_over_tokens(self, field):
        keys = [replace(KEY, **{field: value}) for value in range(4000)]
        numbers = draw_uniforms(keys, 2)
        assert numbers.min() >= TINIEST
        assert numbers.max() <= LARGEST
        for column in numbers.T:
            counts = torch.histc(column, bins=10, min=0.0, max=1.0)
            assert chi_square(counts, torch.full((10,), 0.1)) < CHI_SQUARE[9]

    def test_keys_may_be_large_numbers(self):
        large = SampleKey(seed=2**40, step=2**33, prompt_id=2**35, sample_index=2**20)
        assert draw_uniforms([large], 3).isfinite().all()


class TestSampleTokens:
    @pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
    def test_tokens_have_the_frequencies_of_their_probabilities(self, temperature):
        uniforms = draw_uniforms([replace(KEY, prompt_id=p) for p in range(4000)], 5).flatten()
        tokens, logprobs = sample(LOGITS, uniforms, temperature=temperature)
        scaled = LOGITS / temperature
        scaled[BANNED] = -torch.inf
        expected = scaled.log_softmax(0)
        assert_close(logprobs, expected[tokens])
        counts = tokens.bincount(minlength=12).float()
        assert counts[BANNED] == 0
        others = torch.arange(12) != BANNED
        assert chi_square(counts[others], expected.exp()[others]) < CHI_SQUARE[10]

    def test_evenly_spaced_uniforms_give_each_token_its_share(self):
        count = 10_000
        uniforms = (torch.arange(count) + 0.5) / count
        tokens, _ = sample(LOGITS, uniforms)
        others = torch.arange(12) != BANNED
        shares = LOGITS.masked_fill(~others, -torch.inf).softmax(0)
        assert (tokens.bincount(minlength=12) - shares * count).abs().max() < 1.1

    @pytest.mark.parametrize("banned", range(4))
    @pytest.mark.parametrize("uniform", [TINIEST, 0.5, LARGEST])
    def test_no_uniform_gives_the_banned_token_or_an_impossible_one(self, banned, uniform):
        for logits in itertools.product([0.0, 80.0, -200.0], repeat=4):
            tokens, logprobs = sample(
                torch.tensor(logits), torch.tensor([uniform]), banned_token=banned
            )
            assert tokens.item() != banned
            assert logprobs.item() > -150

    def test_greedy_takes_the_likeliest_token_that_is_not_banned(self):
        tokens, logprobs = sample(
            LOGITS, torch.tensor([TINIEST, LARGEST]), greedy=True, temperature=0.3, top_k=1
        )
        expected = LOGITS.index_fill(0, torch.tensor([BANNED]), -torch.inf).log_softmax(0)
        assert tokens.tolist() == [2, 2]
        assert_close(logprobs, expected[[2, 2]])

    @pytest.mark.parametrize(
        "narrowing", [{"top_k": 3}, {"top_p": 0.6}, {"top_k": 5, "top_p": 0.7}]
    )
    def test_narrowing_changes_the_tokens_and_not_their_log_probs(self, narrowing):
        uniforms = (torch.arange(5000) + 0.5) / 5000
        tokens, logprobs = sample(LOGITS, uniforms, temperature=0.7, **narrowing)
        scaled = (LOGITS / 0.7).index_fill(0, torch.tensor([BANNED]), -torch.inf)
        probabilities = scaled.softmax(0)
        assert_close(logprobs, probabilities.log()[tokens])
        kept = narrow(probabilities[None], top_k=narrowing.get("top_k", 0),
                      top_p=narrowing.get("top_p", 1.0))[0]  # fmt: skip
        shares = kept / kept.sum()
        assert (tokens.bincount(minlength=12) - shares * 5000).abs().max() < 1.1
        assert 1 < (kept > 0).sum() < 11

    def test_each_row_is_sampled_from_its_distribution(self):
        logits = torch.eye(4) * 100
        tokens, _, _ = sample_tokens(
            logits[[2, 0, 1]], torch.full((3,), 0.5), Sampling(max_new_tokens=1), banned_token=3
        )
        assert tokens.tolist() == [2, 0, 1]

    @pytest.mark.parametrize("size", [127, 128, 129, 50257])
    @pytest.mark.parametrize("fields", [{}, {"top_k": 40}, {"greedy": True}])
    def test_log_probs_and_entropies_equal_the_softmaxs_for_any_vocabulary(self, size, fields):
        generator = torch.Generator().manual_seed(size)
        logits = torch.randn(6, size, generator=generator) * 3
        uniforms = torch.rand(6, generator=generator)
        scaled = (logits.double() if "greedy" in fields else logits.double() / 0.7).clone()
        scaled[:, BANNED] = -torch.inf
        every = scaled.log_softmax(-1)
        sampling = Sampling(max_new_tokens=1, temperature=0.7, **fields)
        tokens, logprobs, entropies = sample_tokens(
            logits.clone(), uniforms, sampling, banned_token=BANNED
        )
        expected = every.gather(1, tokens[:, None])[:, 0]
        assert_close(logprobs.double(), expected, rtol=1e-5, atol=2e-6)
        # Summed over 50,257 terms in fp32; entropies are watched, nothing is computed from them.
        exact = -(every.exp() * every).nansum(-1)
        assert_close(entropies.double(), exact, rtol=1e-4, atol=1e-5)
        if not fields:  # the token is where the exact cumulative distribution passes the uniform
            ends = every.exp().cumsum(-1).gather(1, tokens[:, None])[:, 0]
            assert (uniforms < ends + 1e-5).all()
            assert (uniforms > ends - expected.exp() - 1e-5).all()


class TestNarrow:
    PROBABILITIES = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.3, 0.05, 0.5, 0.15]])

    @pytest.mark.parametrize(
        ("top_k", "top_p", "kept"),
        [
            (0, 1.0, {0.5, 0.3, 0.15, 0.05}),
            (9, 1.0, {0.5, 0.3, 0.15, 0.05}),
            (1, 1.0, {0.5}),
            (3, 1.0, {0.5, 0.3, 0.15}),
            (0, 0.01, {0.5}),
            (0, 0.49, {0.5}),
            (0, 0.51, {0.5, 0.3}),
            (0, 0.79, {0.5, 0.3}),
            (0, 0.9, {0.5, 0.3, 0.15}),
            (0, 0.96, {0.5, 0.3, 0.15, 0.05}),
            (2, 0.61, {0.5}),  # 0.61 of the 0.8 that top-k leaves
            (2, 0.64, {0.5, 0.3}),
        ],
    )
    def test_the_kept_sets_by_hand(self, top_k, top_p, kept):
        found = narrow(self.PROBABILITIES, top_k=top_k, top_p=top_p)
        for row, probabilities in zip(found, self.PROBABILITIES, strict=True):
            expected = [p if round(p, 2) in kept else 0.0 for p in probabilities.tolist()]
            assert row.tolist() == expected

    @pytest.mark.parametrize("top_p", [0.1, 0.35, 0.62, 0.93])
    def test_top_p_keeps_the_smallest_set_that_reaches_it(self, top_p):
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(50, 30, generator=generator).mul(2).softmax(-1)
        kept = narrow(rows, top_k=0, top_p=top_p)
        for row, mine in zip(rows, kept, strict=True):
            count = int((mine > 0).sum())
            ranked = row.sort(descending=True).values
            assert mine.sum().item() == pytest.approx(ranked[:count].sum().item())
            assert ranked[:count].sum() >= top_p - 1e-6
            assert ranked[: count - 1].sum() < top_p + 1e-6

    def test_equal_probabilities_keep_exactly_k(self):
        kept = narrow(torch.full((1, 6), 1 / 6), top_k=2, top_p=1.0)
        assert (kept > 0).sum() == 2
