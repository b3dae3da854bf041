"""Faults in evaluation, judges, reports and the checks of flags."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "ties are wins",
        "a tie is half a win",
        "training/evaluation/statistics.py",
        "return (np.sign(difference) + 1.0) / 2.0",
        "return (difference >= 0).astype(np.float64)",
        "tests/evaluation/test_statistics.py::test_a_tie_counts_one_half",
    ),
    Mutation(
        "bootstrap by response",
        "whole prompts are resampled",
        "training/evaluation/statistics.py",
        "_, member_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)",
        "member_of = np.arange(len(values))",
        "tests/evaluation/test_statistics.py::"
        "test_groups_that_agree_inside_widen_the_interval_by_the_root_of_their_size",
    ),
    Mutation(
        "best of n without its correction",
        "the KL of best-of-n is log n - (n - 1) / n",
        "training/evaluation/statistics.py",
        "return log(n) - (n - 1) / n",
        "return log(n)",
        "tests/evaluation/test_statistics.py::test_best_of_n_spends_little_kl",
    ),
    Mutation(
        "distinct-2 of all words",
        "distinct-2 is over equally many words",
        "training/evaluation/text_metrics.py",
        "split_words(text.lower())[:remaining]",
        "split_words(text.lower())",
        "tests/evaluation/test_text_metrics.py::test_words_beyond_the_limit_are_not_counted",
    ),
    Mutation(
        "judges may return nan",
        "a judge's scores are finite",
        "training/evaluation/judge_file.py",
        "if not math.isfinite(score)), None)",
        "if False), None)",
        "tests/evaluation/test_judge_file.py::"
        "test_scores_that_are_not_one_finite_number_a_text_are_refused",
    ),
    Mutation(
        "offload without zero",
        "offloading needs ZeRO 2 or 3",
        "training/arguments/common.py",
        "not self.offload_optimizer or self.zero_stage >= 2,",
        "True,",
        "tests/stages/test_bad_input.py::"
        "test_a_mistake_that_any_stage_may_meet[offload and stage-sft]",
    ),
    Mutation(
        "mistakes exit 1",
        "a mistake ends with status 2",
        "training/arguments/parsing.py",
        "USER_MISTAKE = 2",
        "USER_MISTAKE = 1",
        "tests/stages/test_bad_input.py::test_a_mistake_that_any_stage_may_meet[seed -1-sft]",
    ),
    Mutation(
        "titles are not escaped",
        "texts of a page are escaped",
        "training/evaluation/page.py",
        "title=escape(title)",
        "title=title",
        "tests/evaluation/test_report.py::test_whatever_comes_from_outside_is_escaped",
    ),
    Mutation(
        "cells are not escaped",
        "cells of a table are escaped",
        "training/evaluation/page.py",
        'f"<th>{escape(cell)}</th>"',
        'f"<th>{cell}</th>"',
        "tests/evaluation/test_report.py::test_whatever_comes_from_outside_is_escaped",
    ),
]
