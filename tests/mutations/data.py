"""Faults in rows, encoding, splits, batches and packing."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "no eos",
        "EOS ends every response",
        "training/data/encode.py",
        "return [*response[:room], eos]",
        "return [*response[:room]]",
        "tests/data/test_encode.py::test_the_loss_is_on_the_response_and_its_eos",
    ),
    Mutation(
        "loss on the prompt",
        "the loss is on the response alone",
        "training/data/encode.py",
        "mask = [False] * len(prompt) + [True] * len(ids)",
        "mask = [True] * len(prompt) + [True] * len(ids)",
        "tests/data/test_encode.py::test_the_loss_is_on_the_response_and_its_eos",
    ),
    Mutation(
        "prompts cut on the right",
        "long prompts lose their beginning",
        "training/data/encode.py",
        "ids[-max_prompt_length:]",
        "ids[:max_prompt_length]",
        "tests/data/test_encode.py::test_overlong_prompts_can_be_dropped_or_cut_on_the_left",
    ),
    Mutation(
        "template twice",
        "a template holds {prompt} once",
        "training/arguments/common.py",
        'self.prompt_template.count("{prompt}") == 1,',
        'self.prompt_template.count("{prompt}") >= 1,',
        "tests/stages/test_bad_input.py::"
        "test_a_mistake_that_any_stage_may_meet[template twice-sft]",
    ),
    Mutation(
        "nothing held out",
        "with two prompts neither side is empty",
        "training/data/dataset.py",
        "chosen[draws.argmin()] = True",
        "pass",
        "tests/data/test_splits.py::test_no_prompt_is_on_both_sides_and_no_row_is_lost",
    ),
    Mutation(
        "common runs count",
        "runs that many texts have count for nothing",
        "training/data/contamination.py",
        "texts_with[r] <= COMMON",
        "texts_with[r] > 0",
        "tests/data/test_contamination.py::"
        "test_runs_that_many_training_texts_have_count_for_nothing",
    ),
    Mutation(
        "cache key of nothing",
        "another key is another file",
        "training/data/cache.py",
        "json.dumps(key, sort_keys=True).encode()",
        'b""',
        "tests/data/test_cache.py::test_another_key_is_another_entry",
    ),
    Mutation(
        "damaged cache is read",
        "a damaged cache file is written again",
        "training/data/cache.py",
        "file.read() == _compute_seal(path, size)",
        "True",
        "tests/data/test_cache.py::test_a_damaged_file_is_written_again",
    ),
    Mutation(
        "hh prompt splits too early",
        "a dialogue is split behind the last shared turn",
        "training/data/comparisons.py",
        ".rfind(ANSWER)",
        ".find(ANSWER)",
        "tests/data/test_comparisons.py::test_a_dialogue_is_split_behind_the_last_shared_assistant",
    ),
    Mutation(
        "labels above one",
        "a label is a probability",
        "training/data/records.py",
        "if not 0 <= label <= 1:",
        "if not 0 <= label:",
        "tests/data/test_records.py::test_a_bad_row_is_named_in_one_line",
    ),
    Mutation(
        "ranks get the same rows",
        "a batch is split over the ranks",
        "training/data/batches.py",
        "size - 1 - seat)",
        "seat)",
        "tests/data/test_batches.py::test_a_ranks_share_by_hand",
    ),
    Mutation(
        "ranks with fewer micro-batches",
        "every rank has equally many micro-batches",
        "training/data/batches.py",
        "return plans[rank] + [[] for _ in range(max(map(len, plans)) - len(plans[rank]))]",
        "return plans[rank]",
        "tests/data/test_batches.py::test_every_rank_plans_equally_many_micro_batches",
    ),
]
