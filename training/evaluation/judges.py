"""Judges that score texts and had no part in training. Higher is better."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from training.arguments.parsing import UserError
from training.judge import Judge


class SentimentJudge:
    """Logistic regression on TF-IDF of words and word pairs, for the log-odds of "liked".

    `unit="char"` uses one to three characters instead, for text without spaces.
    """

    def __init__(self, *, min_df: int = 3, unit: Literal["word", "char"] = "word") -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self._vectorizer: Any = TfidfVectorizer(
            analyzer=unit,
            ngram_range=(1, 2) if unit == "word" else (1, 3),
            min_df=min_df,
            sublinear_tf=True,
            dtype=np.float32,
        )
        self._classifier: Any = LogisticRegression(C=4.0, max_iter=200)

    def fit(self, texts: Sequence[str], labels: Sequence[int]) -> "SentimentJudge":
        """Fit to texts labelled 1 (liked) or 0."""
        if set(labels) != {0, 1}:
            raise UserError(
                f"a judge needs texts of both labels, 0 and 1; got {sorted(set(labels))}"
            )
        self._classifier.fit(self._vectorizer.fit_transform(texts), labels)
        return self

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return the log-odds of "liked" for each text."""
        features = self._vectorizer.transform(texts)
        return [float(score) for score in self._classifier.decision_function(features)]

    def measure_accuracy(self, texts: Sequence[str], labels: Sequence[int]) -> float:
        """Return the fraction of texts whose score has the sign of their label."""
        pairs = list(zip(self.score(texts), labels, strict=True))
        return sum((score > 0) == bool(label) for score, label in pairs) / len(pairs)


class VaderJudge:
    """The VADER lexicon and its rules (Hutto and Gilbert, ICWSM 2014)."""

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._analyzer: Any = SentimentIntensityAnalyzer()

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return the compound score of each text, from -1 to 1."""
        return [float(self._analyzer.polarity_scores(text)["compound"]) for text in texts]


def score_all(judge: Judge, name: str, texts: Sequence[str]) -> list[float]:
    """Return one score per text; raises UserError for another number of scores."""
    scores = [float(score) for score in judge(texts)]
    if len(scores) != len(texts):
        raise UserError(f"judge {name!r} returned {len(scores)} scores for {len(texts)} texts")
    return scores
