import pytest

from training.arguments.parsing import UserError
from training.evaluation.judges import SentimentJudge, VaderJudge, load_judges, score_all

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
    assert judge.accuracy(["wonderful", "wonderful", "tedious", "moving"], [1, 0, 0, 1]) == 0.75


def test_fitting_again_gives_the_same_scores(judge):
    again = SentimentJudge().fit(LIKED + DISLIKED, LABELS)
    assert again.score(LIKED[:3]) == judge.score(LIKED[:3])


def test_a_judge_needs_both_labels():
    with pytest.raises(UserError, match="both labels"):
        SentimentJudge().fit(LIKED, [1] * 20)


def test_vader_knows_praise_from_blame():
    praise, blame, nothing = VaderJudge().score(["a great film", "a horrible film", "a film"])
    assert -1.0 <= blame < nothing == 0.0 < praise <= 1.0


def test_judges_of_the_users_own_are_loaded_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def judges():\n    return {'longer': lambda texts: [len(t) for t in texts]}\n")
    assert load_judges(str(path))["longer"](["a", "abc"]) == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("x = 1\n", r"needs a function judges\(\)"),
        ("def judges():\n    return {}\n", r"needs a function judges\(\)"),
        ("def judges():\n    return {'a': 3}\n", r"needs a function judges\(\)"),
    ],
)
def test_a_file_without_judges_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_judges(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_judge_that_returns_too_few_scores_is_named():
    with pytest.raises(UserError, match="'mine' returned 1 scores for 2 texts"):
        score_all(lambda _: [1.0], "mine", ["a", "b"])
