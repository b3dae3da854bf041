"""Faults in sampling, the KV cache and the generation loop."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "pad can be sampled",
        "PAD is never sampled",
        "training/hybrid_engine/sampling.py",
        "shifted[:, banned_token] = IMPOSSIBLE",
        "shifted[:, banned_token] = 0.0",
        "tests/hybrid_engine/test_sampling.py::"
        "TestSampleTokens::test_tokens_have_the_frequencies_of_their_probabilities",
    ),
    Mutation(
        "temperature not applied",
        "logits are divided by the temperature",
        "training/hybrid_engine/sampling.py",
        "logits.mul_(1.0 / sampling.temperature)",
        "logits.mul_(sampling.temperature)",
        "tests/hybrid_engine/test_sampling.py::"
        "TestSampleTokens::test_tokens_have_the_frequencies_of_their_probabilities",
    ),
    Mutation(
        "sampling keys without the prompt",
        "each response has its own draws",
        "training/hybrid_engine/sampling.py",
        "counter=np.array([0, 0, key.sample_index, key.prompt_id]",
        "counter=np.array([0, 0, key.sample_index, 0]",
        "tests/hybrid_engine/test_sampling.py::"
        "TestKeyedUniforms::test_every_field_of_a_key_matters",
    ),
    Mutation(
        "top-k keeps one more",
        "top-k keeps k tokens",
        "training/hybrid_engine/sampling.py",
        "keep[:, top_k:] = False",
        "keep[:, top_k + 1 :] = False",
        "tests/hybrid_engine/test_sampling.py::TestNarrow::test_the_kept_sets_by_hand",
    ),
    Mutation(
        "cache hides the newest token",
        "a token reads itself and those before it",
        "training/hybrid_engine/kv_cache.py",
        "> self.lengths[:count, None]",
        ">= self.lengths[:count, None]",
        "tests/hybrid_engine/test_decoder.py::test_greedy_responses_equal_those_of_transformers",
    ),
    Mutation(
        "responses run past eos",
        "EOS ends a response",
        "training/hybrid_engine/scheduler.py",
        "(drawn != self._eos_id) & (ages < limit - 1)",
        "(ages < limit - 1)",
        "tests/hybrid_engine/test_decoder.py::"
        "test_responses_end_with_eos_or_at_the_limit_and_are_right_padded",
    ),
    Mutation(
        "generation without the adapter",
        "generation merges LoRA",
        "training/hybrid_engine/view.py",
        'weights["weight"].float() + module.get_delta_weight(adapter)',
        'weights["weight"].float()',
        "tests/hybrid_engine/test_view.py::test_the_view_holds_the_merged_weights",
    ),
]
