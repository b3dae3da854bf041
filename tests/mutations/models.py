"""Faults in heads, adapters, folders and what of them is read."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "pad has probability",
        "training gives PAD probability 0",
        "training/models/lm_head.py",
        "if banned_token is not None:\n        banned = ",
        "if False:\n        banned = ",
        "tests/models/test_lm_head.py::"
        "TestLogProbs::test_a_banned_token_has_probability_0_and_the_others_are_renormalized",
    ),
    Mutation(
        "dropout stays on",
        "dropout can be set to 0",
        "training/models/loading.py",
        "setattr(config, name, value)\n\n\ndef choose",
        "pass\n\n\ndef choose",
        "tests/models/test_loading.py::test_dropout_is_off_in_every_key_and_module_that_gpt2_has",
    ),
    Mutation(
        "merge without scale",
        "a merged weight has the scaled adapter",
        "training/models/lora.py",
        "(upper @ lower) * adapted.scaling[ADAPTER]",
        "upper @ lower",
        "tests/models/test_lora.py::test_a_merged_model_gives_the_logits_of_the_adapted_one",
    ),
    Mutation(
        "score without normalization",
        "scores are normalized",
        "training/models/scalar.py",
        "(raw - self.settings.score_mean) / self.settings.score_std",
        "raw",
        "tests/models/test_scalar.py::"
        "TestReadings::test_normalization_shifts_and_scales_the_raw_reading",
    ),
    Mutation(
        "score at the last column",
        "the score is at the last real token",
        "training/models/scalar.py",
        "readings.gather(1, find_last_position(attention_mask)[:, None]).squeeze(1)",
        "readings[:, -1]",
        "tests/models/test_scalar.py::"
        "TestReadings::test_they_do_not_depend_on_padding_or_neighbours",
    ),
    Mutation(
        "pooling counts padding",
        "pooling skips padding",
        "training/models/scalar.py",
        "hidden = hidden.masked_fill(~is_real[..., None], 0.0)",
        "hidden = hidden",
        "tests/models/test_scalar.py::TestPooling::test_padding_may_hold_anything",
    ),
    Mutation(
        "folder code runs",
        "code of a folder is never run",
        "training/models/folders.py",
        '"trust_remote_code": False',
        '"trust_remote_code": True',
        "tests/test_security.py::test_a_model_that_needs_code_of_its_own_is_refused",
    ),
    Mutation(
        "archives lead outside",
        "a member of an archive stays inside it",
        "examples/common/archives.py",
        'if parts.is_absolute() or ".." in parts.parts:',
        "if False:",
        "tests/test_security.py::test_a_member_with_a_path_out_of_the_archive_is_refused",
    ),
]
