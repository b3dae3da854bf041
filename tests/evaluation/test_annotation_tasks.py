import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.material import write_material
from training.arguments.collect import CollectArgs
from training.arguments.parsing import UserError
from training.data.annotation.tasks import measure_likeness
from training.evaluation import sampling
from training.evaluation.annotation_tasks import Collector, write_tasks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def args(made, tmp_path) -> CollectArgs:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"say {n} things:\n" for n in range(6)) + "say 0 things:\n")
    return CollectArgs(
        model=str(made / "before"),
        prompts=[str(prompts)],
        output=str(tmp_path / "tasks.json"),
        max_prompt_length=32,
        max_new_tokens=12,
        dtype="fp32",
        most_alike=0.9,
    )


def collected(args: CollectArgs, **changes: Any) -> Any:
    return Collector(replace(args, **changes), CPU).run()


def test_each_distinct_prompt_gets_responses_that_differ(args):
    found = collected(args, tasks="ranker", samples_per_prompt=3)
    tasks = found.tasks["ranker"]
    assert len(tasks) + found.skipped_prompts == 6
    for task in tasks:
        texts = [item["body"] for item in task["data"]["items"]]
        assert 2 <= len(texts) <= 3
        assert all(text.strip() for text in texts)
        assert all(measure_likeness(a, b) <= 0.9 for a in texts for b in texts if a is not b)
    temperatures = {o["temperature"] for t in tasks for o in t["data"]["origins"].values()}
    assert temperatures == {0.7, 1.0, 1.3}


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_batch(args):
    tasks = collected(args).tasks
    Path(f"{args.output}.progress.jsonl").unlink()
    others = collected(args, generation_batch_size=3).tasks
    equal = [a == b for a, b in zip(tasks["pairwise"], others["pairwise"], strict=True)]
    assert sum(equal) >= len(equal) - 2, "one token at a tie may part a response"
    Path(f"{args.output}.progress.jsonl").unlink()
    assert collected(args, seed=1).tasks != tasks


def test_a_stopped_run_continues_where_it_was(args, monkeypatch):
    whole = collected(args).tasks
    progress = Path(f"{args.output}.progress.jsonl")
    lines = progress.read_text().splitlines(keepends=True)
    progress.write_text("".join(lines[:3]) + lines[3][:20])  # two prompts, and a cut line
    drawn: list[int] = []
    original = Collector._generate

    def watched(self, engine, index, prompts, count):
        drawn.extend(prompt.prompt_id for prompt in prompts)
        return original(self, engine, index, prompts, count)

    monkeypatch.setattr(Collector, "_generate", watched)
    assert collected(args).tasks == whole
    assert set(drawn) == {2, 3, 4, 5}


def test_progress_of_other_flags_is_not_used(args, monkeypatch):
    collected(args)
    called: list[int] = []
    original = Collector._sample

    def watched(self, prompts):
        called.append(len(prompts))
        return original(self, prompts)

    monkeypatch.setattr(Collector, "_sample", watched)
    collected(args, max_new_tokens=8)
    collected(args, max_new_tokens=8, tasks="both", output=args.output)
    assert called == [6]


def test_progress_of_an_earlier_model_of_that_name_is_not_used(args, made, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(made / "before", folder)
    first = collected(args, model=str(folder)).tasks
    shutil.copy(made / "after" / "model.safetensors", folder / "model.safetensors")
    assert collected(args, model=str(folder)).tasks != first


def test_the_outputs_folder_is_made(args, tmp_path):
    elsewhere = replace(args, output=str(tmp_path / "new" / "folder" / "tasks.json"))
    assert write_tasks(elsewhere, collected(elsewhere))[0].is_file()


def test_files_hold_the_tasks_and_the_page_for_them(args, tmp_path):
    both = replace(args, tasks="both")
    files = write_tasks(both, collected(both))
    names = ["tasks.json", "tasks.xml", "tasks.ranker.json", "tasks.ranker.xml"]
    assert [file.name for file in files] == names
    pairs = json.loads((tmp_path / "tasks.json").read_text())
    assert set(pairs[0]["data"]) == {"prompt", "answer1", "answer2", "origin1", "origin2"}
    assert "<Pairwise" in (tmp_path / "tasks.xml").read_text()
    assert "<Ranker" in (tmp_path / "tasks.ranker.xml").read_text()


def test_a_reward_model_predicts_and_the_least_certain_come_first(args, made):
    tasks = collected(args, reward_model=str(made / "reward"), pairs_per_prompt=3)
    scores = [task["predictions"][0]["score"] for task in tasks.tasks["pairwise"]]
    assert scores == sorted(scores)
    assert 0.5 <= scores[0] < scores[-1] <= 1.0
    sides = {t["predictions"][0]["result"][0]["value"]["selected"] for t in tasks.tasks["pairwise"]}
    assert sides == {"left", "right"}


def test_a_prediction_is_the_scores_of_the_reward_model(args, made, monkeypatch):
    told: list[Any] = []
    original = sampling.score_responses

    def watched(*inputs, **options):
        found = original(*inputs, **options)
        told.append((inputs, found))
        return found

    monkeypatch.setattr(sampling, "score_responses", watched)
    unsorted = collected(args).tasks["pairwise"]
    predicted = collected(args, reward_model=str(made / "reward")).tasks["pairwise"]
    (_, _, responses), scores = told[0]
    eos = responses[0][-1]
    assert all(response[-1] == eos for response in responses)
    by_data = {json.dumps(task["data"]): task["predictions"][0] for task in predicted}
    for number, task in enumerate(unsorted):
        left, right = scores[2 * number], scores[2 * number + 1]
        chosen = by_data[json.dumps(task["data"])]["result"][0]["value"]["selected"]
        assert chosen == ("left" if left >= right else "right")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "/nowhere"}, "--model"),
        ({"prompts": ["/nowhere.txt"]}, "/nowhere.txt"),
        ({"max_new_tokens": 500}, "--max_new_tokens 500"),
        ({"reward_model": "/nowhere"}, "--reward_model"),
    ],
)
def test_a_mistake_names_its_flag(args, changes, named):
    with pytest.raises(UserError, match=named):
        collected(args, **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"samples_per_prompt": 1}, "--samples_per_prompt"),
        ({"temperatures": [1.0, 0.0]}, "--temperatures"),
        ({"temperatures": [1.0, 1.0]}, "--temperatures"),
        ({"temperature": 0.5}, "--temperatures 0.5"),
        ({"most_alike": 1.0}, "--most_alike"),
        ({"output": "tasks.txt"}, "--output"),
        ({"reward_model": "x", "tasks": "ranker"}, "--reward_model"),
        ({"pairs_per_prompt": -1}, "--pairs_per_prompt"),
        ({"project": "mine"}, "--project mine: says where .* give --label_studio_url"),
        ({"label_studio_url": "localhost"}, "--label_studio_url must be like"),
        ({"label_studio_url": "http://h", "project": "ab"}, "--project: .* got 'ab'"),
        ({"label_studio_url": "http://h", "output": "t.json"}, "--project: .* got 't'"),
        (
            {"label_studio_url": "http://h", "project": "mine", "tasks": "both"},
            "--project mine: --tasks both makes two projects",
        ),
    ],
)
def test_a_flag_out_of_range_is_refused(changes, named):
    with pytest.raises(UserError, match=named):
        CollectArgs(**changes)
