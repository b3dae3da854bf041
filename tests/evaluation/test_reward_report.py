"""The report of stage 2 on models whose faults are known, and on data that tries to break it."""

import json
from html import escape
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.test_report import NASTY, parsed
from training.arguments.reward import RewardArgs
from training.data.encode import EncodedGroup
from training.data.records import Pair
from training.data.stages import Split
from training.evaluation.reward_model.accuracy import build_report
from training.evaluation.reward_model.baselines import learn_length_rule
from training.evaluation.reward_model.held_out_pairs import held_out_pairs
from training.evaluation.reward_model.page import write_reward_page
from training.evaluation.reward_model.report import RewardRun, summarize
from training.evaluation.reward_model.warnings import list_warnings
from training.runtime.distributed import World

CPU = torch.device("cpu")


class Taste:
    """600 prompts with two responses each, whose qualities and lengths are known.

    The chance that people prefer one is sigmoid(quality difference), as Bradley and Terry have it.
    """

    def __init__(self, seed=0, count=600, like_long=0.0, votes=None):
        draw = np.random.default_rng(seed)
        self.lengths = draw.integers(1, 30, size=2 * count)
        self.quality = draw.normal(scale=1.5, size=2 * count) + like_long * self.lengths
        left, right = self.quality[::2], self.quality[1::2]
        is_left = draw.random(count) < 1 / (1 + np.exp(right - left))
        self.groups = []
        for n in range(count):
            chosen, rejected = (0, 1) if is_left[n] else (1, 0)
            pair = Pair(chosen, rejected, votes=votes(draw) if votes else ())
            responses = [[n, side] + [7] * int(self.lengths[2 * n + side]) for side in range(2)]
            self.groups.append(EncodedGroup([n], responses, (pair,), f"r{n}"))
        self.draw = draw

    def report(self, scores):
        held = held_out_pairs(self.groups)
        return build_report(held, scores, learn_length_rule(self.groups), seed=0)

    def about(self, scores):
        return [warning["about"] for warning in list_warnings(self.report(scores))]


def test_an_honest_model_is_not_flagged():
    world = Taste()
    report = world.report(world.quality)
    assert list_warnings(report) == []
    assert report["calibration"]["ece"] < 0.05
    assert abs(report["calibration"]["overconfidence"]) < 0.04
    assert abs(report["length_correlation"]) < 0.15
    assert report["baselines"]["chance"]["p_value"] < 0.002
    by_size = [part["accuracy"] for part in report["by_score_difference"]]
    assert by_size == sorted(by_size)
    assert by_size[-1] > 0.85 > 0.7 > by_size[0]


def test_a_model_that_counts_tokens_is_flagged_though_it_is_better_than_chance():
    world = Taste(like_long=0.1)
    report = world.report(0.1 * world.lengths)
    assert report["all"]["accuracy"] > 0.6
    about = [warning["about"] for warning in list_warnings(report)]
    assert "length" in about
    assert "length correlation" in about
    assert "length bias" in about
    assert "chance" not in about
    assert report["length_correlation"] == pytest.approx(1.0)
    # Whatever people prefer, it prefers the longer.
    shorter, *_, longer = report["by_length"]
    assert (shorter["accuracy"], longer["accuracy"]) == (0.0, 1.0)


def test_a_model_that_knows_more_than_length_is_not_flagged_where_length_matters_too():
    world = Taste(like_long=0.05)
    assert world.about(world.quality) == []


def test_a_random_model_is_no_better_than_chance():
    world = Taste()
    report = world.report(0.1 * world.draw.normal(size=len(world.quality)))
    (warning,) = list_warnings(report)
    assert warning["about"] == "chance"
    assert warning["text"].startswith("no better than chance: ")
    assert report["baselines"]["chance"]["p_value"] > 0.02


def test_a_model_that_learnt_the_labels_the_wrong_way_round_is_worse_than_chance():
    world = Taste()
    assert "worse than chance" in world.about(-world.quality)


def test_a_model_whose_scores_are_four_times_too_far_apart_is_over_confident():
    world = Taste()
    assert world.about(4 * world.quality) == ["over-confident"]
    assert world.about(0.25 * world.quality) == []  # too modest misleads nobody


def test_few_comparisons_are_reported_with_the_width_of_the_interval():
    world = Taste(count=30)
    warnings = {w["about"]: w["text"] for w in list_warnings(world.report(world.quality))}
    report = world.report(world.quality)
    low, high = report["all"]["interval"]
    text = warnings["few comparisons"]
    assert (
        f"only 30 held-out comparisons are decided: the accuracy may be anything from {low:.0%}"
        in text
    )
    assert f"{100 * (high - low):.0f} points" in text
    assert "few prompts" not in warnings
    assert "few prompts" in Taste(count=19).about(Taste(count=19).quality)


def test_an_annotator_who_votes_at_random_is_named_and_the_others_are_not():
    def votes(draw):
        odd = float(draw.random() < 0.5)
        return (("ann", 1.0), ("bob", 1.0), ("eve", odd))

    world = Taste(votes=votes)
    report = world.report(world.quality)
    (warning,) = list_warnings(report)
    assert warning["about"] == "annotator eve"
    assert "other people agree with" in warning["text"]
    assert report["by_annotator"]["ann"]["accuracy"] == report["all"]["accuracy"]
    assert report["by_annotator"]["eve"]["agreement_with_others"] == pytest.approx(0.5, abs=0.06)


def test_soft_labels_are_the_share_who_agree():
    # 3 of 4 people agree; a model that says 0.75 is calibrated, and as good as it can be.
    groups = [EncodedGroup([n], [[1], [2]], (Pair(0, 1, label=0.75),), f"r{n}") for n in range(200)]
    scores = np.tile([np.log(3.0), 0.0], 200)
    report = build_report(held_out_pairs(groups), scores, learn_length_rule(groups), seed=0)
    assert report["calibration"]["ece"] == pytest.approx(0.0, abs=1e-12)
    assert report["calibration"]["brier"] == pytest.approx(0.0, abs=1e-12)
    assert report["calibration"]["brier_undecided"] == pytest.approx(0.0625)
    (only,) = report["by_raters"]
    assert (only["low"], only["high"], only["pairs"], only["accuracy"]) == (0.7, 0.8, 200, 1.0)


class Log:
    """What a run tells TensorBoard."""

    def __init__(self):
        self.texts, self.histograms = {}, []

    def log_histogram(self, step, name, values):
        self.histograms.append((step, name, len(values)))

    def log_text(self, name, markdown):
        self.texts[name] = markdown


class Words:
    """A tokenizer whose every token is the same words."""

    def __init__(self, words):
        self.words = words

    def decode(self, ids, **_):
        return self.words


def a_run(folder, world, *, words="words", held_out=None, rank=0, **flags):
    args = RewardArgs(data_path=["x"], output_dir=str(folder), **flags)
    data = Split(world.groups, world.groups if held_out is None else held_out)
    log: Any = Log()
    return RewardRun(args, World(rank, rank + 1, CPU), log, data, Words(words)), log


def by_group(scores):
    return scores.reshape(-1, 2).tolist()


def said(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def test_a_run_reports_the_model_that_it_keeps_and_all_its_evaluations(tmp_path):
    world = Taste(votes=lambda draw: (("ann", 1.0), ("bob", float(draw.random() < 0.9))))
    run, log = a_run(tmp_path, world)
    first = run.add(5, by_group(0.0 * world.quality))
    assert first["calibration/ece"] == pytest.approx(0.0)
    run.add(10, by_group(world.quality))
    run.save(tmp_path)
    run.add(15, by_group(-world.quality))
    (tmp_path / "last").mkdir()
    run.save(tmp_path / "last")
    run.save(tmp_path / "not_there")
    run.finish()
    assert not (tmp_path / "not_there").exists()
    report = said(tmp_path)
    assert report["step"] == 10
    assert report["all"]["accuracy"] > 0.7
    assert said(tmp_path / "last")["all"]["accuracy"] < 0.3
    assert [row["step"] for row in report["drift"]] == [5, 10, 15]
    assert report["drift"][2]["score/eval_turned"] == 1.0
    assert report["warnings"] == []
    assert len(report["worst"]) == 20
    assert [step for step, *_ in log.histograms] == [5, 10, 15]
    assert log.texts["warnings"] == "none"
    assert "| --- |" in log.texts["reliability"]
    page = " ".join(" ".join(parsed(tmp_path / "report.html").words).split())
    for expected in (
        f"It orders {report['all']['accuracy']:.1%} of 600 held-out comparisons of 600 prompts",
        "No warnings.",
        "Reliability",
        "By annotator",
        "The worst pairs",
        "a whole model on shuffled labels",
    ):
        assert expected in page


def test_without_held_out_data_the_report_says_so(tmp_path):
    run, _ = a_run(tmp_path, Taste(count=3), held_out=[], shuffle_labels=True)
    run.save(tmp_path)
    run.finish()
    report = said(tmp_path)
    assert report["all"] == {"pairs": 0, "accuracy": None, "interval": None}
    (line,) = summarize(run.report)
    assert line.startswith("warning: no decided comparison is held out")
    page = " ".join(parsed(tmp_path / "report.html").words)
    assert "there is no accuracy" in page
    assert "control: trained on shuffled labels" in page


@pytest.mark.parametrize("label", [0.5, 1.0])
def test_ties_alone_and_scores_that_are_not_numbers_end_in_a_warning(tmp_path, label):
    groups = [EncodedGroup([n], [[1], [2]], (Pair(0, 1, label=label),), f"r{n}") for n in range(3)]
    run, log = a_run(tmp_path, Taste(count=3), held_out=groups)
    assert "calibration/ece" not in run.add(1, [[1.0, 2.0], [float("nan"), 1.0], [3.0, 4.0]])
    run.save(tmp_path)
    run.finish()
    (warning,) = said(tmp_path)["warnings"]
    assert warning["about"] == ("nothing held out" if label == 0.5 else "not a number")
    assert log.histograms == []
    parsed(tmp_path / "report.html")


def test_other_ranks_compute_and_write_nothing(tmp_path):
    world = Taste(count=4)
    run, log = a_run(tmp_path, world, rank=1)
    assert run.add(1, by_group(world.quality)) == {}
    run.save(tmp_path)
    run.finish()
    run.log_summary()
    assert list(tmp_path.iterdir()) == []
    assert log.texts == {}


def test_hostile_texts_and_names_are_shown_as_they_were_written(tmp_path):
    world = Taste(count=60, votes=lambda draw: ((NASTY, 1.0), ("b", float(draw.random() < 0.5))))
    for n, group in enumerate(world.groups):
        world.groups[n] = EncodedGroup(
            group.prompt_ids, group.response_ids, group.pairs, f"{NASTY}:{n}"
        )
    run, _ = a_run(tmp_path, world, words=NASTY)
    run.add(1, by_group(world.quality))
    run.save(tmp_path)
    run.finish()
    report = said(tmp_path)
    report["warnings"] = [{"about": NASTY, "text": NASTY}]
    write_reward_page(report, [], [], tmp_path / "warned.html")
    for name in ("report.html", "warned.html"):
        page = parsed(tmp_path / name)
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "b", "link", "img", "iframe"}
        assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)
        assert "url(" not in (tmp_path / name).read_text("utf-8")
    assert escape(NASTY) in (tmp_path / "report.html").read_text("utf-8")
    assert any(NASTY in words for words in parsed(tmp_path / "report.html").words)
