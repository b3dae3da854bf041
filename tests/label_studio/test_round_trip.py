"""Tasks to a real Label Studio, annotations by three people, and their votes back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.annotation.exports import chosen, ranked
from tests.evaluation.material import write_material
from tests.label_studio.people import administrator
from tests.stages.processes import ROOT
from training.data.annotation.server import TOKEN
from training.data.annotation.tasks import PAIRWISE_CONFIG, RANKER_CONFIG

pytestmark = [
    pytest.mark.label_studio,
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.timeout(1800),
]


def write_tasks(folder: Path, tasks: list[dict[str, Any]], page: str = PAIRWISE_CONFIG) -> Path:
    file = folder / "tasks.json"
    file.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    file.with_suffix(".xml").write_text(page, encoding="utf-8")
    return file


def pair(number: int) -> dict[str, Any]:
    """A task whose texts are of the kinds that get lost on the way."""
    left, right = f'<b>left</b> "{number}"\n汉字 👩\u200d🚀', f"right {number}, =1+1"
    return {"data": {"prompt": f"question {number}", "answer1": left, "answer2": right}}


def row(number: int, *, chosen: int, label: float, votes: dict[str, float]) -> dict[str, Any]:
    data = pair(number)["data"]
    return {
        "prompt": data["prompt"],
        "responses": [data["answer1"], data["answer2"]],
        "pairs": [{"chosen": chosen, "rejected": 1 - chosen, "label": label, "votes": votes}],
    }


def with_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with names for the server's numbers of the people, who came in this order."""
    pairs = [pair for row in rows for pair in row["pairs"]]
    numbers = sorted({int(number) for pair in pairs for number in pair["votes"]})
    names = {
        str(number): name for number, name in zip(numbers, ("ann", "ben", "cleo"), strict=True)
    }
    for pair in pairs:
        pair["votes"] = {names[number]: share for number, share in pair["votes"].items()}
    return rows


# What the three people do below, question by question.
EXPECTED = [
    row(1, chosen=0, label=1.0, votes={"ann": 1.0, "ben": 1.0, "cleo": 1.0}),  # all left
    row(2, chosen=0, label=0.5, votes={"ann": 1.0, "ben": 0.0}),  # left; right; skipped
    row(3, chosen=1, label=0.666667, votes={"ann": 1.0, "ben": 1.0, "cleo": 0.0}),  # one changed
    row(4, chosen=0, label=1.0, votes={"ben": 1.0, "cleo": 1.0}),  # skipped; left; left
    row(5, chosen=1, label=1.0, votes={"ben": 1.0, "cleo": 1.0}),  # nothing chosen; right; right
]  # and nobody answers question 6


@pytest.fixture(scope="module")
def labelled(server, ann, ben, cleo, tmp_path_factory) -> str:
    """The title of a project of six pairs with those annotations; the first test pushes them."""
    folder = tmp_path_factory.mktemp("pairs")
    file = write_tasks(folder, [pair(number) for number in range(1, 7)])
    words = ["push", str(file), "--label_studio_url", server.url, "--project", "six pairs"]
    done = subprocess.run(
        [sys.executable, "-m", "training.data.annotation", *words, "--annotations_per_task", "3"],
        env={**os.environ, TOKEN: server.token, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    project = int(done.stdout.rsplit("/", 1)[1])
    assert done.stdout == (
        f"project 'six pairs' ({project}) is new: 6 tasks added: {server.url}/projects/{project}\n"
    )
    one, two, three, four, five, _ = [task["id"] for task in ann.tasks(project)]
    for task in (one, two, three):
        # The page gives the tasks in the order in which they were pushed.
        assert ann.ask("GET", f"projects/{project}/next")["id"] == task
        submitted = ann.submit(task, chosen("left"))
    ann.change(submitted, chosen("right"))
    ann.submit(four, [], skip=True)
    ann.submit(five, [])
    # What one has answered is still the other's, since three are to see it; begun tasks come first.
    assert ben.ask("GET", f"projects/{project}/next")["id"] in (one, two, three, four, five)
    for task, side in ((one, "left"), (two, "right"), (three, "right"), (four, "left")):
        ben.submit(task, chosen(side))
    ben.submit(five, chosen("right"))
    for task, side in ((one, "left"), (three, "left"), (four, "left"), (five, "right")):
        cleo.submit(task, chosen(side))
    cleo.submit(two, [], skip=True)
    return "six pairs"


@pytest.mark.parametrize(
    ("form", "annotations", "dropped"),
    [
        ("JSON", 15, {"nothing chosen": 1, "skipped": 2}),
        ("JSON_MIN", 13, {"nothing chosen": 1}),  # these two lose what was skipped
        ("CSV", 13, {"nothing chosen": 1}),
    ],
)
def test_the_votes_come_back_in_each_format(
    labelled, server, command, tmp_path, form, annotations, dropped
):
    export = tmp_path / ("export.csv" if form == "CSV" else "export.json")
    url = ("--label_studio_url", server.url)
    words = ("pull", *url, "--project", labelled, "--format", form, "--output", export)
    (line,) = command(*words)
    assert line.endswith(f": 6 tasks, {annotations} annotations written to {export}")
    pairs, report = tmp_path / "pairs.jsonl", tmp_path / "report.json"
    command(export, "--output", pairs, "--report", report)
    rows = [json.loads(text) for text in pairs.read_text("utf-8").splitlines()]
    assert with_names(rows) == EXPECTED
    account = json.loads(report.read_text("utf-8"))
    assert account["annotations"] == annotations
    assert account["used"] == 12
    assert account["dropped"] == dropped
    assert account["tasks_without_annotation"] == 1
    # Questions 1 to 5 have several votes: agreed 3 of 3, 0 of 1, 1 of 3, 1 of 1 and 1 of 1.
    assert account["agreement"]["comparisons"] == 5
    assert account["agreement"]["percent"] == pytest.approx(2 / 3, abs=1e-4)
    assert server.token not in export.read_text("utf-8")


def test_stage_2_learns_from_what_was_pulled(labelled, server, command, tmp_path):
    export = tmp_path / "export.json"
    command("pull", "--label_studio_url", server.url, "--project", labelled, "--output", export)
    made = write_material(tmp_path / "made")
    words = ["--model_name_or_path", made / "before", "--data_path", export]
    words += ["--eval_data_path", made / "comparisons.jsonl", "--max_length", "60"]
    words += ["--output_dir", tmp_path / "out", "--max_steps", "2", "--zero_stage", "0"]
    done = subprocess.run(
        [sys.executable, ROOT / "step2_reward" / "main.py", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "15 annotations by 3 annotators: 12 used, 3 dropped; 5 comparisons" in (
        done.stdout + done.stderr
    )
    metrics = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("step") == 2 for line in metrics)


def test_a_second_push_adds_what_is_new_and_says_what_was_there(server, command, tmp_path):
    url = ("--label_studio_url", server.url)
    first = [pair(1), pair(2)]
    (line,) = command("push", write_tasks(tmp_path, first), *url, "--project", "growing")
    assert "is new: 2 tasks added" in line
    grown = write_tasks(tmp_path, [pair(3), *first, pair(1)])  # one of them is wanted twice
    (line,) = command("push", grown, *url, "--project", "growing")
    assert ": 2 tasks added, 2 were there already: " in line
    (line,) = command("push", grown, *url, "--project", line.rsplit("/", 1)[1])
    assert ": 0 tasks added, 4 were there already: " in line
    command("pull", *url, "--project", "growing", "--output", tmp_path / "export.json")
    pulled = json.loads((tmp_path / "export.json").read_text("utf-8"))
    prompts = [task["data"]["prompt"] for task in pulled]
    assert sorted(prompts) == ["question 1", "question 1", "question 2", "question 3"]


def test_rankings_come_back_as_comparisons(server, ann, command, tmp_path):
    items = [{"id": f"a{n}", "title": f"Answer {n}", "body": f"text {n}"} for n in (1, 2, 3)]
    file = write_tasks(tmp_path, [{"data": {"prompt": "q", "items": items}}], RANKER_CONFIG)
    url = ("--label_studio_url", server.url)
    (line,) = command("push", file, *url, "--project", "ranks")
    project = int(line.rsplit("/", 1)[1])
    (task,) = ann.tasks(project)
    ann.submit(task["id"], ranked("a2", "a1", "a3"))
    command("pull", *url, "--project", str(project), "--output", tmp_path / "export.json")
    command(tmp_path / "export.json", "--output", tmp_path / "pairs.jsonl")
    (found,) = [json.loads(text) for text in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    better = sorted((pair["chosen"], pair["rejected"]) for pair in found["pairs"])
    assert better == [(0, 2), (1, 0), (1, 2)]
    assert found["responses"] == ["text 1", "text 2", "text 3"]


def test_a_personal_access_token_does_as_well(server, command, labelled, tmp_path):
    made = administrator(server).ask("POST", "token/")
    assert made["token"].count(".") == 2  # a JWT, which the server exchanges for short-lived ones
    url = ("--label_studio_url", server.url)
    words = ("pull", *url, "--project", labelled, "--output", tmp_path / "export.json")
    (line,) = command(*words, token=made["token"])
    assert ": 6 tasks, 15 annotations" in line


@pytest.mark.parametrize("token", ["f" * 40, "e30.e30.AAAA"])
def test_a_token_of_nobody_is_refused_in_one_line(server, command, capsys, token):
    with pytest.raises(SystemExit) as ended:
        command("pull", "--label_studio_url", server.url, "--project", "six pairs", token=token)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"refuses the token in {TOKEN} (401" in error
    assert error.count("\n") == 1
    assert token not in error


def test_collect_pushes_what_it_sampled_with_the_models_choices(server, ann, tmp_path):
    made = write_material(tmp_path / "made")
    (tmp_path / "prompts.txt").write_text("say one thing:\nsay two things:\nsay three things:\n")
    flags = {
        "model": made / "before",
        "prompts": tmp_path / "prompts.txt",
        "output": tmp_path / "collected.json",
        "reward_model": made / "reward",
        "max_prompt_length": 32,
        "max_new_tokens": 12,
        "most_alike": 0.9,
        "label_studio_url": server.url,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    program = ["bash", str(ROOT / "step2_reward" / "collect.sh")]
    env = {**os.environ, TOKEN: server.token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*program, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads((tmp_path / "collected.json").read_text("utf-8"))
    line = done.stdout.splitlines()[-1]
    project = int(line.rsplit("/", 1)[1])
    assert line.startswith(f"project 'collected' ({project}) is new: {len(written)} tasks added: ")

    found = ann.tasks(project)
    assert [task["data"] for task in found] == [task["data"] for task in written]
    scores = [task["predictions"][0]["score"] for task in found]
    assert scores == sorted(scores)  # the least certain first; the server keeps the order
    assert {task["predictions"][0]["model_version"] for task in found} == {"reward"}
    # What the model would choose is not shown to those who are to choose for themselves.
    assert ann.ask("GET", f"projects/{project}")["show_collab_predictions"] is False
    kept = [file for file in tmp_path.glob("*") if file.is_file()]
    assert not [file for file in kept if server.token in file.read_text("utf-8")]
    assert server.token not in done.stdout + done.stderr


def test_collect_asks_the_server_before_it_samples(server, tmp_path):
    made = write_material(tmp_path / "made")
    words = ["--model", made / "before", "--output", tmp_path / "tasks.json"]
    words += ["--label_studio_url", server.url, "--project", "987654"]
    program = ["bash", str(ROOT / "step2_reward" / "collect.sh")]
    env = {**os.environ, TOKEN: server.token, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*program, *map(str, words)], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--project 987654: no such project" in done.stderr.splitlines()[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["made"]
