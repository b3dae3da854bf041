"""What users get wrong with the tools: one line, status 2, nothing written. And real launches."""

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.material import write_material
from tests.stages.processes import ROOT, environment
from training.data.annotation.tasks import PAIRWISE_CONFIG

MAINS = {
    "collect": "step2_reward.collect",
    "evaluate": "step3_ppo.evaluate",
    "chat": "step3_ppo.chat",
    "annotation": "training.data.annotation.__main__",
    "inspect": "training.data.inspect",
    "quickstart": "examples.quickstart",
    **{
        f"benchmarks.{name}": f"benchmarks.{name}"
        for name in ("memory", "ppo", "rankings", "reward", "rollout", "sft", "zero")
    },
}


class Place:
    """Models and data of an evaluation, and a folder to write to."""

    def __init__(self, made: Path, tmp: Path) -> None:
        self.made, self.tmp = made, tmp

    def __getattr__(self, name: str) -> str:
        """before, after, reward, other_words: their folders."""
        return str(self.made / name)

    def file(self, content: Any, name: str = "data.jsonl") -> str:
        path = self.tmp / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content, encoding="utf-8")
        return str(path)

    @property
    def prompts(self) -> str:
        return str(self.made / "prompts.jsonl")

    @property
    def judge(self) -> str:
        return str(self.made / "judge.py")

    def tasks(self, rows: Any = None, page: str | None = PAIRWISE_CONFIG) -> str:
        good = [{"data": {"prompt": "q", "answer1": "a", "answer2": "b"}}]
        if page is not None:
            self.file(page, "tasks.xml")
        return self.file(json.dumps(good if rows is None else rows), "tasks.json")


def evaluate(*words: str) -> Callable[[Place], list[str]]:
    """An evaluation with other flags: the later of two counts."""
    return lambda p: [
        *("--before", p.before, "--after", p.after, "--judge", p.judge, "--data_path", p.prompts),
        *("--max_prompt_length", "36", "--max_new_tokens", "12"),
        *(getattr(p, word[1:]) if word.startswith("@") else word for word in words),
    ]


def collect(*words: str) -> Callable[[Place], list[str]]:
    return lambda p: [
        *("--model", p.before, "--prompts", p.prompts, "--output", str(p.tmp / "tasks.json")),
        *("--max_prompt_length", "36", "--max_new_tokens", "12"),
        *(getattr(p, word[1:]) if word.startswith("@") else word for word in words),
    ]


URL = ("--label_studio_url", "http://127.0.0.1:9")
Flags = Callable[[Place], list[str]]
Case = tuple[str, Flags, list[str]]


def words(*given: str) -> Flags:
    return lambda p: list(given)


def every(tool: str, good: Callable[..., Flags], **values: str) -> dict[str, Case]:
    """Flags of a tool with values that they do not take."""
    return {
        f"{tool}: --{name} {value}": (
            tool,
            good(f"--{name}", *value.split()),
            [f"--{name}", value.split()[-1]],
        )
        for name, value in values.items()
    }


EVALUATE: dict[str, Case] = {
    **every(
        "evaluate",
        evaluate,
        befor="x",
        max_prompts="-1",
        best_of="1",
        kl_target="-1",
        temperature="0",
        top_p="0",
        split="all",
        judge_text="prompt",
        dtype="int8",
        notes="no.json",
        micro_batch_tokens="0",
        seed="-2",
        chat_template="no.jinja",
    ),
    "one label": ("evaluate", evaluate("--labels", "one"), ["--labels", "got 1"]),
    "nothing to compare with": (
        "evaluate",
        lambda p: ["--before", p.before, "--after", p.after],
        ["--judge", "--reward_model_name_or_path"],
    ),
    "best of without a chooser": ("evaluate", evaluate("--best_of", "2"), ["--best_of"]),
    "comparisons without a scorer": (
        "evaluate",
        evaluate("--comparisons_path", "x.jsonl"),
        ["--comparisons_path", "--reward_model_name_or_path"],
    ),
    "people without a reader": (
        "evaluate",
        evaluate("--human_path", "x.jsonl"),
        ["--human_path", "--reader_model_name_or_path"],
    ),
    "a cut of what is not read": (
        "evaluate",
        evaluate("--judge_text_after", ":"),
        ["--judge_text_after", "--judge_text"],
    ),
    "no model before": ("evaluate", evaluate("--before", "./no"), ["--before", "./no"]),
    "a reward model after": ("evaluate", evaluate("--after", "@reward"), ["--after", "a reward"]),
    "a language model as scorer": (
        "evaluate",
        evaluate("--reward_model_name_or_path", "@before"),
        ["--reward_model_name_or_path", "not a reward model"],
    ),
    "a scorer of other words": (
        "evaluate",
        evaluate("--before", "@other_words", "--reward_model_name_or_path", "@reward"),
        ["tokenizers", "differ"],
    ),
    "too much for the context": (
        "evaluate",
        evaluate("--max_new_tokens", "60"),
        ["--max_new_tokens 60", "64 positions"],
    ),
    "no prompts": ("evaluate", evaluate("--data_path", "no.jsonl"), ["no.jsonl: no such file"]),
    "a group that no row has": ("evaluate", evaluate("--group_by", "town"), ["'town'", "jsonl:1"]),
    "no such judge": ("evaluate", evaluate("--judge", "no.py"), ["--judge no.py"]),
    "a judge of text": (
        "evaluate",
        lambda p: [*evaluate()(p), "--judge", p.file("x", "judge.txt")],
        ["--judge", "judge.txt", ".py"],
    ),
    "a judge with a mistake": (
        "evaluate",
        lambda p: [*evaluate()(p), "--judge", p.file("a = 1\nb = a / 0\n", "bad.py")],
        ["--judge", "bad.py:2", "ZeroDivisionError"],
    ),
    "a judge that judges nothing": (
        "evaluate",
        lambda p: [*evaluate()(p), "--judge", p.file("a = 1\n", "empty.py")],
        ["--judge", "empty.py", "score(texts)"],
    ),
    "notes that are a list": (
        "evaluate",
        lambda p: [*evaluate()(p), "--notes", p.file("[1]", "notes.json")],
        ["--notes", "notes.json", "shows"],
    ),
    "an output that is a file": (
        "evaluate",
        lambda p: [*evaluate()(p), "--output_dir", p.file("x", "taken")],
        ["--output_dir", "taken"],
    ),
    "an output that is a model": (
        "evaluate",
        evaluate("--output_dir", "@after"),
        ["--output_dir", "holds a model"],
    ),
}
COLLECT: dict[str, Case] = {
    **every(
        "collect",
        collect,
        promts="x",
        samples_per_prompt="1",
        temperatures="0",
        temperature="0.7",
        most_alike="1",
        tasks="triples",
        pairs_per_prompt="-1",
        output="tasks.txt",
        micro_batch_tokens="0",
        top_k="-3",
        model="./no",
    ),
    "no prompts to answer": (
        "collect",
        collect("--prompts", "no.jsonl"),
        ["no.jsonl: no such file"],
    ),
    "tasks for nobody": (
        "collect",
        collect("--annotations_per_task", "0", *URL),
        ["--annotations_per_task", "0"],
    ),
    "one temperature twice": (
        "collect",
        collect("--temperatures", "1", "1.0"),
        ["--temperatures", "twice"],
    ),
    "predictions of rankings": (
        "collect",
        collect("--reward_model", "@reward", "--tasks", "ranker"),
        ["--reward_model", "--tasks ranker"],
    ),
    "a project without a server": (
        "collect",
        collect("--project", "mine"),
        ["--project mine", "--label_studio_url"],
    ),
    "a server without a scheme": (
        "collect",
        collect("--label_studio_url", "localhost"),
        ["--label_studio_url", "'localhost'"],
    ),
    "a reward model that is to talk": (
        "collect",
        collect("--model", "@reward"),
        ["--model", "a reward model"],
    ),
    "a talker that is to score": (
        "collect",
        collect("--reward_model", "@before"),
        ["--reward_model", "not a reward model"],
    ),
    "more than the context": (
        "collect",
        collect("--max_prompt_length", "60"),
        ["--max_prompt_length 60", "64 positions"],
    ),
    "a collection below a file": (
        "collect",
        lambda p: [*collect()(p), "--output", p.file("x", "taken") + "/tasks.json"],
        ["--output", "taken"],
    ),
}


def exported(content: str, name: str = "export.json", *more: str) -> Flags:
    return lambda p: [p.file(content, name), *more]


ONE_VOTE = json.dumps(
    [
        {
            "id": 1,
            "data": {"prompt": "q", "answer1": "a", "answer2": "b"},
            "annotations": [{"id": 1, "result": "left"}],
        }
    ]
)
ANNOTATION: dict[str, Case] = {
    "no export named": ("annotation", words(), ["name the exported file"]),
    "no such export": ("annotation", words("no.json"), ["--export", "no.json"]),
    "an export of broken JSON": ("annotation", exported("[{"), ["export.json:1", "not valid JSON"]),
    "an empty export": ("annotation", exported("[]"), ["export.json", "no rows"]),
    "an export of something else": (
        "annotation",
        exported('[{"prompt": "a"}]'),
        ["export.json"],
    ),
    "a vote that is no list": ("annotation", exported(ONE_VOTE), ["export.json"]),
    "an export over itself": (
        "annotation",
        lambda p: [*[p.file("[]", "e.json")], "--output", str(p.tmp / "e.json")],
        ["--export", "--output", "different"],
    ),
    "votes of a kind": ("annotation", exported("[]", "e.json", "--votes", "any"), ["--votes"]),
    "no such page": (
        "annotation",
        exported("[]", "e.json", "--label_config", "no.xml"),
        ["--label_config", "no.xml"],
    ),
    "a misspelt flag": ("annotation", exported("[]", "e.json", "--ouput", "x"), ["--ouput"]),
    "no tasks to push": ("annotation", words("push"), ["name the file of tasks"]),
    "no such tasks": ("annotation", words("push", "no.json", *URL), ["--tasks", "no.json"]),
    "tasks without a page": (
        "annotation",
        lambda p: ["push", p.tasks(page=None), *URL],
        ["tasks.xml", "--label_config"],
    ),
    "a push to nowhere": (
        "annotation",
        lambda p: ["push", p.tasks()],
        ["--label_studio_url", "http://localhost:8080"],
    ),
    "a password in the address": (
        "annotation",
        lambda p: ["push", p.tasks(), "--label_studio_url", "http://me:pw@localhost"],
        ["--label_studio_url", "no password", "LABEL_STUDIO_API_KEY"],
    ),
    "a push without a token": (
        "annotation",
        lambda p: ["push", p.tasks(), *URL],
        ["LABEL_STUDIO_API_KEY is not set"],
    ),
    "people of nobody": (
        "annotation",
        lambda p: ["push", p.tasks(), *URL, "--annotations_per_task", "0"],
        ["--annotations_per_task", "0"],
    ),
    "a short title": (
        "annotation",
        lambda p: ["push", p.tasks(), *URL, "--project", "ab"],
        ["--project", "'ab'"],
    ),
    "no project to pull": ("annotation", words("pull", *URL), ["--project"]),
    "a pull into another kind": (
        "annotation",
        words("pull", *URL, "--project", "mine", "--output", "x.csv"),
        ["--output", ".json", "x.csv"],
    ),
    "a format unheard of": (
        "annotation",
        words("pull", *URL, "--project", "mine", "--format", "XML"),
        ["--format", "XML"],
    ),
    "a pull without a token": (
        "annotation",
        words("pull", *URL, "--project", "mine"),
        ["LABEL_STUDIO_API_KEY is not set"],
    ),
}


def other_tokenizer(p: Place) -> str:
    """A folder whose tokenizer.json no version of `tokenizers` can read."""
    p.file('{"tokenizer_class": "PreTrainedTokenizerFast"}', "tokenizer_config.json")
    p.file('{"added_tokens": [], "model": {"a": 1}}', "tokenizer.json")
    return str(p.tmp)


INSPECT: dict[str, Case] = {
    "nothing to inspect": ("inspect", words(), ["name the data"]),
    "no such data": ("inspect", words("no.jsonl"), ["no.jsonl: no such file"]),
    "data of no kind": ("inspect", lambda p: [p.file("x", "a.docx")], ["a.docx", "unknown kind"]),
    "a stage unheard of": (
        "inspect",
        lambda p: [p.prompts, "--stage", "dpo"],
        ["--stage", "dpo"],
    ),
    "text of either kind": ("inspect", lambda p: [p.file("a\n", "a.txt")], ["a .txt", "--stage"]),
    "columns of no stage": ("inspect", lambda p: [p.file([{"a": 1}])], ["data.jsonl:1", "--stage"]),
    "no room at all": ("inspect", lambda p: [p.prompts, "--max_length", "0"], ["--max_length"]),
    "no such tokenizer": (
        "inspect",
        lambda p: [p.prompts, "--tokenizer_name_or_path", "./no"],
        ["--tokenizer_name_or_path", "./no"],
    ),
    "a tokenizer of another version": (
        "inspect",
        lambda p: [p.prompts, "--tokenizer_name_or_path", other_tokenizer(p)],
        ["--tokenizer_name_or_path", "no tokenizer can be loaded", "untagged enum"],
    ),
    "a report into a folder": (
        "inspect",
        lambda p: [p.prompts, "--report", str(p.tmp)],
        ["--report"],
    ),
    "no held-out data": (
        "inspect",
        lambda p: [p.prompts, "--eval_data_path", "no.jsonl"],
        ["no.jsonl: no such file"],
    ),
}
CHAT: dict[str, Case] = {
    **{
        f"chat: {name}": ("chat", flags, expected)
        for name, flags, expected in (
            ("no such model", words("--model", "./no"), ["--model", "./no"]),
            ("a reward model", lambda p: ["--model", p.reward], ["--model", "a reward model"]),
            ("a mode", words("--mode", "song"), ["--mode", "song"]),
            ("no tokens", words("--max_new_tokens", "0"), ["--max_new_tokens", "0"]),
            ("cold", words("--temperature", "-1"), ["--temperature", "-1"]),
            ("misspelt", words("--modle", "x"), ["--modle"]),
            (
                "turns in a frame",
                words("--mode", "chat", "--prompt_template", "Q: {prompt}"),
                ["--prompt_template", "--chat_template"],
            ),
            ("no template", words("--chat_template", "no.jinja"), ["--chat_template", "no.jinja"]),
        )
    }
}
OTHERS: dict[str, Case] = {
    "quickstart: misspelt": ("quickstart", words("--smok"), ["--smok"]),
    "quickstart: an example": ("quickstart", words("--example", "cats"), ["--example", "cats"]),
    "quickstart: a base": ("quickstart", words("--base", "gpt5"), ["--base", "gpt5"]),
    "quickstart: a seed": ("quickstart", words("--seed", "-1"), ["--seed", "-1"]),
    "quickstart: a base without the language": (
        "quickstart",
        words("--example", "chinese_reviews", "--base", "smollm2"),
        ["--base smollm2"],
    ),
    "quickstart: an output below a file": (
        "quickstart",
        lambda p: ["--output_dir", p.file("x", "taken") + "/out"],
        ["--output_dir", "taken"],
    ),
    **{
        f"benchmarks.{name}: misspelt": (f"benchmarks.{name}", words("--siez", "tiny"), ["--siez"])
        for name in ("memory", "ppo", "rankings", "reward", "rollout", "sft", "zero")
    },
    "benchmarks: a size": ("benchmarks.sft", words("--size", "huge"), ["--size", "huge"]),
    "benchmarks: no pairs": ("benchmarks.ppo", words("--pairs", "0"), ["--pairs", "0"]),
    "benchmarks: ranks": (
        "benchmarks.zero",
        words("--ranks", "3"),
        ["--batch (32)", "--ranks", "3"],
    ),
    "benchmarks: ragged": (
        "benchmarks.reward",
        words("--shortest", "300"),
        ["--shortest", "--answer", "300"],
    ),
    "benchmarks: a zero stage": (
        "benchmarks.memory",
        words("--zero_stages", "4"),
        ["--zero_stages", "4"],
    ),
    "benchmarks: a folder for the result": (
        "benchmarks.rollout",
        lambda p: ["--json", p.file("x", "taken") + "/r.json"],
        ["--json", "taken"],
    ),
}
TOOLS = {**EVALUATE, **COLLECT, **ANNOTATION, **INSPECT, **CHAT, **OTHERS}
assert len(TOOLS) == sum(map(len, (EVALUATE, COLLECT, ANNOTATION, INSPECT, CHAT, OTHERS)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_material(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("case", TOOLS)
def test_a_mistake_with_a_tool_is_one_line(
    made, tmp_path, monkeypatch, capsys, as_one_process, case
):
    tool, flags, expected = TOOLS[case]
    (tmp_path / "in").mkdir()
    given = flags(Place(made, tmp_path / "in"))
    monkeypatch.setattr(sys, "argv", [tool, *given])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)  # so that the default paths lead nowhere
    before = sorted([*tmp_path.rglob("*"), *made.rglob("*")])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(MAINS[tool]).main()
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "error: " in line]
    assert ended.value.code == 2
    assert len(lines) == 1, said.err
    assert said.err.splitlines()[-1] == lines[0], "more was said after it"
    assert "Traceback" not in said.err
    assert all(part in lines[0] for part in expected), lines[0]
    assert sorted([*tmp_path.rglob("*"), *made.rglob("*")]) == before, "something was written"


LAUNCHES = {
    "a stage by its script": ["bash", "step1_sft/run.sh", "--learning_rat", "1"],
    "a stage without a model": ["bash", "step2_reward/run.sh", "--model_name_or_path", "./no"],
    "a stage by itself": [sys.executable, "step3_ppo/main.py", "--top_p", "7"],
    "the collection by its script": ["bash", "step2_reward/collect.sh", "--output", "x.txt"],
    "a module": [sys.executable, "-m", "training.data.inspect", "no.jsonl"],
    "a benchmark": [sys.executable, "-m", "benchmarks.rollout", "--pairs", "0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHES)
def test_a_mistake_of_a_real_launch_is_one_line(tmp_path, name):
    env = environment(tmp_path / "ops", tmp_path / "cache") | {"OUTPUT_DIR": str(tmp_path / "out")}
    ended = subprocess.run(
        LAUNCHES[name], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert "error: " in lines[0]
    assert LAUNCHES[name][-2].removeprefix("training.data.inspect") in lines[0]
    assert not (tmp_path / "out").exists()
