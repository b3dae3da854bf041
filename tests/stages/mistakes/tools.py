"""Mistakes in flags of the evaluation and the collection."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.data.annotation.tasks import PAIRWISE_CONFIG


class ToolInputs:
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


Flags = Callable[[ToolInputs], list[str]]
Case = tuple[str, Flags, list[str]]  # the tool, its flags, parts of the line that is printed
URL = ("--label_studio_url", "http://127.0.0.1:9")


def use_flags(*given: str) -> Flags:
    return lambda p: list(given)


def evaluate_with(*words: str) -> Callable[[ToolInputs], list[str]]:
    """An evaluation with other flags: the later of two counts."""
    return lambda p: [
        *("--before", p.before, "--after", p.after, "--judge", p.judge, "--data_path", p.prompts),
        *("--max_prompt_length", "36", "--max_new_tokens", "12"),
        *(getattr(p, word[1:]) if word.startswith("@") else word for word in words),
    ]


def collect_with(*words: str) -> Callable[[ToolInputs], list[str]]:
    return lambda p: [
        *("--model", p.before, "--prompts", p.prompts, "--output", str(p.tmp / "tasks.json")),
        *("--max_prompt_length", "36", "--max_new_tokens", "12"),
        *(getattr(p, word[1:]) if word.startswith("@") else word for word in words),
    ]


def list_bad_values(tool: str, good: Callable[..., Flags], **values: str) -> dict[str, Case]:
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
    **list_bad_values(
        "evaluate",
        evaluate_with,
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
    "one label": ("evaluate", evaluate_with("--labels", "one"), ["--labels", "got 1"]),
    "nothing to compare with": (
        "evaluate",
        lambda p: ["--before", p.before, "--after", p.after],
        ["--judge", "--reward_model_name_or_path"],
    ),
    "best of without a chooser": ("evaluate", evaluate_with("--best_of", "2"), ["--best_of"]),
    "comparisons without a scorer": (
        "evaluate",
        evaluate_with("--comparisons_path", "x.jsonl"),
        ["--comparisons_path", "--reward_model_name_or_path"],
    ),
    "people without a reader": (
        "evaluate",
        evaluate_with("--human_path", "x.jsonl"),
        ["--human_path", "--reader_model_name_or_path"],
    ),
    "a cut of what is not read": (
        "evaluate",
        evaluate_with("--judge_text_after", ":"),
        ["--judge_text_after", "--judge_text"],
    ),
    "no model before": ("evaluate", evaluate_with("--before", "./no"), ["--before", "./no"]),
    "a reward model after": (
        "evaluate",
        evaluate_with("--after", "@reward"),
        ["--after", "a reward"],
    ),
    "a language model as scorer": (
        "evaluate",
        evaluate_with("--reward_model_name_or_path", "@before"),
        ["--reward_model_name_or_path", "not a reward model"],
    ),
    "a scorer of other words": (
        "evaluate",
        evaluate_with("--before", "@other_words", "--reward_model_name_or_path", "@reward"),
        ["tokenizers", "differ"],
    ),
    "too much for the context": (
        "evaluate",
        evaluate_with("--max_new_tokens", "60"),
        ["--max_new_tokens 60", "64 positions"],
    ),
    "no prompts": (
        "evaluate",
        evaluate_with("--data_path", "no.jsonl"),
        ["no.jsonl: no such file"],
    ),
    "a group that no row has": (
        "evaluate",
        evaluate_with("--group_by", "town"),
        ["'town'", "jsonl:1"],
    ),
    "no such judge": ("evaluate", evaluate_with("--judge", "no.py"), ["--judge no.py"]),
    "a judge of text": (
        "evaluate",
        lambda p: [*evaluate_with()(p), "--judge", p.file("x", "judge.txt")],
        ["--judge", "judge.txt", ".py"],
    ),
    "a judge with a mistake": (
        "evaluate",
        lambda p: [*evaluate_with()(p), "--judge", p.file("a = 1\nb = a / 0\n", "bad.py")],
        ["--judge", "bad.py:2", "ZeroDivisionError"],
    ),
    "a judge that judges nothing": (
        "evaluate",
        lambda p: [*evaluate_with()(p), "--judge", p.file("a = 1\n", "empty.py")],
        ["--judge", "empty.py", "score(texts)"],
    ),
    "notes that are a list": (
        "evaluate",
        lambda p: [*evaluate_with()(p), "--notes", p.file("[1]", "notes.json")],
        ["--notes", "notes.json", "shows"],
    ),
    "an output that is a file": (
        "evaluate",
        lambda p: [*evaluate_with()(p), "--output_dir", p.file("x", "taken")],
        ["--output_dir", "taken"],
    ),
    "an output that is a model": (
        "evaluate",
        evaluate_with("--output_dir", "@after"),
        ["--output_dir", "holds a model"],
    ),
}


COLLECT: dict[str, Case] = {
    **list_bad_values(
        "collect",
        collect_with,
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
        collect_with("--prompts", "no.jsonl"),
        ["no.jsonl: no such file"],
    ),
    "tasks for nobody": (
        "collect",
        collect_with("--annotations_per_task", "0", *URL),
        ["--annotations_per_task", "0"],
    ),
    "one temperature twice": (
        "collect",
        collect_with("--temperatures", "1", "1.0"),
        ["--temperatures", "twice"],
    ),
    "predictions of rankings": (
        "collect",
        collect_with("--reward_model", "@reward", "--tasks", "ranker"),
        ["--reward_model", "--tasks ranker"],
    ),
    "a project without a server": (
        "collect",
        collect_with("--project", "mine"),
        ["--project mine", "--label_studio_url"],
    ),
    "a server without a scheme": (
        "collect",
        collect_with("--label_studio_url", "localhost"),
        ["--label_studio_url", "'localhost'"],
    ),
    "a reward model that is to talk": (
        "collect",
        collect_with("--model", "@reward"),
        ["--model", "a reward model"],
    ),
    "a talker that is to score": (
        "collect",
        collect_with("--reward_model", "@before"),
        ["--reward_model", "not a reward model"],
    ),
    "more than the context": (
        "collect",
        collect_with("--max_prompt_length", "60"),
        ["--max_prompt_length 60", "64 positions"],
    ),
    "a collection below a file": (
        "collect",
        lambda p: [*collect_with()(p), "--output", p.file("x", "taken") + "/tasks.json"],
        ["--output", "taken"],
    ),
}
