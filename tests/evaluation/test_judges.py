import pytest

from training.arguments.parsing import UserError
from training.evaluation.judges import SentimentJudge, VaderJudge, score_all

LIKED = [f"a wonderful and moving story, number {n}, told with love" for n in range(20)]
DISLIKED = [f"a tedious and empty story, number {n}, told without care" for n in range(20)]
LABELS = [1] * 20 + [0] * 20


@pytest.fixture(scope="module")
def judge():
    return SentimentJudge().fit(LIKED + DISLIKED, LABELS)


def test_the_judge_ranks_texts_that_it_did_not_see(judge):
    good, bad, unknown = judge.score(["wonderful and moving", "tedious and empty", "zzz"])
    assert good > unknown > bad


def test_scores_are_log_odds(judge):
    from math import exp

    texts = ["wonderful", "tedious", "story told"]
    chance = judge._classifier.predict_proba(judge._vectorizer.transform(texts))[:, 1]
    assert [1 / (1 + exp(-score)) for score in judge.score(texts)] == pytest.approx(chance)


def test_accuracy_is_the_share_told_right(judge):
    assert (
        judge.measure_accuracy(["wonderful", "wonderful", "tedious", "moving"], [1, 0, 0, 1])
        == 0.75
    )


def test_fitting_again_gives_the_same_scores(judge):
    again = SentimentJudge().fit(LIKED + DISLIKED, LABELS)
    assert again.score(LIKED[:3]) == judge.score(LIKED[:3])


def test_a_judge_needs_both_labels():
    with pytest.raises(UserError, match="both labels"):
        SentimentJudge().fit(LIKED, [1] * 20)


def test_vader_knows_praise_from_blame():
    praise, blame, nothing = VaderJudge().score(["a great film", "a horrible film", "a film"])
    assert -1.0 <= blame < nothing == 0.0 < praise <= 1.0


def test_a_judge_that_returns_too_few_scores_is_named():
    with pytest.raises(UserError, match="'mine' returned 1 scores for 2 texts"):
        score_all(lambda _: [1.0], "mine", ["a", "b"])
