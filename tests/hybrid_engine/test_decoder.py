from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_models import CPU, EOS_ID, PAD_ID, POSITIONS, load_lm, rows_of
from training.data.collate import collate_responses
from training.hybrid_engine.engine import HybridEngine, choose_decoder
from training.hybrid_engine.sampling import SampleKey, Sampling, draw_uniforms
from training.hybrid_engine.scheduler import Scheduler
from training.models.policy import Policy
from training.tensors import scatter_to_mask

PROMPTS = rows_of([1, 2, 3, 5, 8, 13, 4, 7, 9, 6, 11, 2, 3, 5, 8, 1])
KEYS = [SampleKey(seed=0, step=1, prompt_id=n, sample_index=0) for n in range(len(PROMPTS))]
LIMIT = 20
TEMPERATURE = 0.7


def generate(lm, prompts=PROMPTS, keys=KEYS, *, batch_size=64, dtype=torch.float32, **fields):
    engine = HybridEngine(
        lm,
        Sampling(**{"max_new_tokens": LIMIT, "temperature": TEMPERATURE, **fields}),
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        device=CPU,
        dtype=dtype,
        batch_size=batch_size,
    )
    with engine.generation() as responses_to:
        return responses_to(prompts, keys)


def rows(responses):
    return [responses.row(index) for index in range(len(responses.tokens))]


def teacher_forced(lm, prompts, responses, temperature, dtype=torch.float32):
    """Log-probs [B, T] of the responses by the training forward."""
    policy = Policy(lm, pad_id=PAD_ID, compute_dtype=dtype)
    batch = collate_responses(prompts, rows(responses), pad_id=PAD_ID, device=CPU)
    with torch.no_grad():
        logprobs, _ = policy(batch.input_ids, batch.attention_mask, batch.target_mask, temperature)
    return scatter_to_mask(logprobs, responses.mask)


def likes_pad(lm):
    """Change the model so that PAD is by far the likeliest token everywhere."""
    with torch.no_grad():
        lm.transformer.ln_f.bias.copy_(torch.ones(32))
        lm.get_input_embeddings().weight[PAD_ID] = 5.0
    return lm


@pytest.mark.parametrize("name", ["gpt2", "gpt2-layer-scaled", "gpt2-unscaled-relu", "llama"])
def test_greedy_responses_equal_those_of_transformers(lm_folders, name):
    lm = load_lm(lm_folders[name])
    found = rows(generate(lm, greedy=True))
    lm.eval()
    for prompt, response in zip(PROMPTS, found, strict=True):
        tokens = torch.tensor([prompt])
        expected = lm.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=LIMIT,
            use_cache=True,
        )
        assert response == expected[0, len(prompt) :].tolist()
    if name in {"gpt2", "llama"}:  # rows that end at different steps, and rows that do not
        ends = Counter(len(row) for row in found if row[-1] == EOS_ID)
        assert len(ends) >= 3
        assert any(row[-1] != EOS_ID for row in found)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_log_probs_equal_those_of_a_teacher_forced_forward(lm, temperature):
    responses = generate(lm, temperature=temperature)
    expected = teacher_forced(lm, PROMPTS, responses, temperature)
    assert_close(responses.logprobs, expected, rtol=1e-5, atol=1e-5)
    assert responses.logprobs[responses.mask].max() < 0


def test_entropies_equal_those_of_a_teacher_forced_forward(lm):
    responses = generate(lm)
    policy = Policy(lm, pad_id=PAD_ID, compute_dtype=torch.float32)
    batch = collate_responses(PROMPTS, rows(responses), pad_id=PAD_ID, device=CPU)
    _, entropies = policy(
        batch.input_ids, batch.attention_mask, batch.target_mask, TEMPERATURE, with_entropy=True
    )
    expected = scatter_to_mask(entropies, responses.mask)
    assert_close(responses.entropies, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("narrowing", [{"top_k": 5}, {"top_p": 0.8}])
def test_narrowed_sampling_returns_log_probs_of_the_whole_distribution(lm, narrowing):
    responses = generate(lm, **narrowing)
    expected = teacher_forced(lm, PROMPTS, responses, TEMPERATURE)
    assert_close(responses.logprobs, expected, rtol=1e-5, atol=1e-5)


def test_bf16_log_probs_are_close_to_the_training_forward_in_bf16(lm):
    responses = generate(lm, dtype=torch.bfloat16)
    expected = teacher_forced(lm, PROMPTS, responses, TEMPERATURE, torch.bfloat16)
    # bf16 has 8 bits: products of order 10 are rounded to within about 0.04.
    assert (responses.logprobs - expected).abs().max() < 0.2
    assert (responses.logprobs - expected).abs().mean() < 0.02


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_tokens_do_not_depend_on_the_batch_size(lm, batch_size):
    whole, split = generate(lm), generate(lm, batch_size=batch_size)
    assert rows(split) == rows(whole)
    assert_close(split.logprobs, whole.logprobs, rtol=1e-5, atol=1e-5)
    lengths = Counter(map(len, rows(whole)))
    assert len(lengths) >= 4  # rows finished, and were dropped, at different steps


def test_tokens_do_not_depend_on_the_order_or_the_neighbours(lm):
    whole = rows(generate(lm))
    order = torch.randperm(len(PROMPTS), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = generate(lm, [PROMPTS[i] for i in order], [KEYS[i] for i in order], batch_size=5)
    assert rows(shuffled) == [whole[i] for i in order]
    some = [3, 12]
    assert rows(generate(lm, [PROMPTS[i] for i in some], [KEYS[i] for i in some])) == [
        whole[i] for i in some
    ]


def test_samples_of_one_prompt_differ_and_repeat_under_their_keys(lm):
    keys = [SampleKey(seed=0, step=1, prompt_id=0, sample_index=n) for n in range(6)]
    found = rows(generate(lm, [PROMPTS[4]] * 6, keys))
    assert len({tuple(row) for row in found}) >= 5  # two may be EOS alone
    assert rows(generate(lm, [PROMPTS[4]] * 6, keys)) == found
    later = [SampleKey(seed=0, step=2, prompt_id=0, sample_index=n) for n in range(6)]
    assert rows(generate(lm, [PROMPTS[4]] * 6, later)) != found


def test_sampled_tokens_have_the_models_frequencies(lm):
    count, prompt = 4000, PROMPTS[4]
    keys = [SampleKey(seed=3, step=1, prompt_id=0, sample_index=n) for n in range(count)]
    drawn = generate(lm, [prompt] * count, keys, batch_size=count, max_new_tokens=1)
    lm.eval()
    with torch.no_grad():
        logits = lm(input_ids=torch.tensor([prompt])).logits[0, -1] / TEMPERATURE
    logits[PAD_ID] = -torch.inf
    expected = logits.softmax(0) * count
    counts = drawn.tokens[:, 0].bincount(minlength=PAD_ID + 1).float()
    assert counts[PAD_ID] == 0
    often = expected >= 5  # where a chi-square holds; the rest is one more class
    pooled = torch.cat([expected[often], expected[~often].sum()[None]])
    seen = torch.cat([counts[often], counts[~often].sum()[None]])
    freedom = len(pooled) - 1
    assert freedom >= 8
    # Wilson-Hilferty: the cube root is normal; 3.7 standard errors are 1 in 10,000.
    statistic = ((seen - pooled).square() / pooled).sum().item()
    spread = 2 / (9 * freedom)
    assert ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5 < 3.7


def test_responses_end_with_eos_or_at_the_limit_and_are_right_padded(lm):
    responses = generate(lm)
    for tokens, mask, logprobs in zip(
        responses.tokens, responses.mask, responses.logprobs, strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all()
        assert EOS_ID not in tokens[: length - 1]
        assert tokens[length - 1] == EOS_ID or length == LIMIT
        assert (tokens[length:] == PAD_ID).all()
        assert (logprobs[length:] == 0).all()
        assert PAD_ID not in tokens[:length]
    assert responses.lengths.tolist() == responses.mask.sum(dim=1).tolist()
    assert responses.mask.any(dim=0).all()  # no column that nobody needs


@pytest.mark.parametrize("greedy", [True, False])
def test_pad_is_never_sampled_even_if_it_is_the_likeliest(lm_folders, greedy):
    lm = likes_pad(load_lm(lm_folders["gpt2"]))
    responses = generate(lm, greedy=greedy, temperature=1.0)
    assert PAD_ID != EOS_ID
    assert not responses.tokens[responses.mask].eq(PAD_ID).any()
    expected = teacher_forced(lm, PROMPTS, responses, 1.0)
    assert_close(responses.logprobs, expected, rtol=1e-5, atol=1e-5)


def test_a_sequence_may_fill_the_position_table(lm):
    prompt = rows_of([POSITIONS - LIMIT], seed=5)[0]
    responses = generate(lm, [prompt, PROMPTS[0]], KEYS[:2])
    expected = teacher_forced(lm, [prompt, PROMPTS[0]], responses, TEMPERATURE)
    assert_close(responses.logprobs, expected, rtol=1e-5, atol=1e-5)


def test_one_new_token_needs_only_the_prefill(lm):
    longer = generate(lm)
    one = generate(lm, max_new_tokens=1)
    assert one.tokens.shape == (len(PROMPTS), 1)
    # The first uniform of a key is the same however many follow.
    assert one.tokens[:, 0].equal(longer.tokens[:, 0])


def test_each_token_of_the_first_prompt_is_passed_on_when_sampled(lm):
    seen: list[int] = []
    sampling = Sampling(max_new_tokens=LIMIT, temperature=TEMPERATURE)
    decoder = choose_decoder(lm, torch.float32)
    decoder.load(lm.eval())
    scheduler = Scheduler(decoder, sampling, slots=5, eos_id=EOS_ID, pad_id=PAD_ID, device=CPU)
    responses = scheduler.run(PROMPTS, draw_uniforms(KEYS, LIMIT), seen.append)
    assert seen == responses.row(0)
