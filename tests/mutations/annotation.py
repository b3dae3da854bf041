"""Faults in annotators' votes and how far they agree."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        "ties decide",
        "a tied vote decides nothing",
        "training/data/annotation/convert.py",
        'args.ties == "drop" and args.votes != "soft"',
        'args.ties == "never"',
        "tests/data/annotation/test_labels.py::test_an_even_majority_is_undecided",
    ),
    Mutation(
        "votes not turned",
        "named votes follow the better side",
        "training/data/annotation/convert.py",
        "vote.share if better == first else 1.0 - vote.share",
        "vote.share",
        "tests/data/annotation/test_labels.py::test_a_comparison_keeps_who_chose_what",
    ),
    Mutation(
        "percent agreement of all",
        "percent agreement counts equal votes",
        "training/data/annotation/agreement.py",
        "return equal / total if total else None",
        "return 1 - equal / total if total else None",
        "tests/data/annotation/test_agreement.py::"
        "test_equal_judgements_are_full_agreement_and_opposite_ones_none",
    ),
    Mutation(
        "kappa without chance",
        "kappa is agreement beyond chance",
        "training/data/annotation/agreement.py",
        "(observed - expected) / (1.0 - expected)",
        "observed",
        "tests/data/annotation/test_agreement.py::test_cohens_kappa_of_a_published_example",
    ),
    Mutation(
        "left is right",
        "left means the first answer",
        "training/data/annotation/votes.py",
        'return 1.0 if selected == "left" else 0.0',
        'return 0.0 if selected == "left" else 1.0',
        "tests/data/annotation/test_convert.py::test_a_choice_is_a_vote_among_any_other_regions",
    ),
    Mutation(
        "rankings reversed",
        "a ranking lists the better answer first",
        "training/data/annotation/votes.py",
        "1.0 if better < worse else 0.0)",
        "0.0 if better < worse else 1.0)",
        "tests/data/annotation/test_rankings.py::test_a_ranking_is_all_its_comparisons",
    ),
]
