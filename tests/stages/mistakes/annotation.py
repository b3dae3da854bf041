"""Mistakes in the exchange with Label Studio and in the inspection of data."""

import json

from tests.stages.mistakes.tools import URL, Case, Flags, ToolInputs, use_flags


def use_export(content: str, name: str = "export.json", *more: str) -> Flags:
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
    "no export named": ("annotation", use_flags(), ["name the exported file"]),
    "no such export": ("annotation", use_flags("no.json"), ["--export", "no.json"]),
    "an export of broken JSON": (
        "annotation",
        use_export("[{"),
        ["export.json:1", "not valid JSON"],
    ),
    "an empty export": ("annotation", use_export("[]"), ["export.json", "no rows"]),
    "an export of something else": (
        "annotation",
        use_export('[{"prompt": "a"}]'),
        ["export.json"],
    ),
    "a vote that is no list": ("annotation", use_export(ONE_VOTE), ["export.json"]),
    "an export over itself": (
        "annotation",
        lambda p: [*[p.file("[]", "e.json")], "--output", str(p.tmp / "e.json")],
        ["--export", "--output", "different"],
    ),
    "votes of a kind": ("annotation", use_export("[]", "e.json", "--votes", "any"), ["--votes"]),
    "no such page": (
        "annotation",
        use_export("[]", "e.json", "--label_config", "no.xml"),
        ["--label_config", "no.xml"],
    ),
    "a misspelt flag": ("annotation", use_export("[]", "e.json", "--ouput", "x"), ["--ouput"]),
    "no tasks to push": ("annotation", use_flags("push"), ["name the file of tasks"]),
    "no such tasks": ("annotation", use_flags("push", "no.json", *URL), ["--tasks", "no.json"]),
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
    "no project to pull": ("annotation", use_flags("pull", *URL), ["--project"]),
    "a pull into another kind": (
        "annotation",
        use_flags("pull", *URL, "--project", "mine", "--output", "x.csv"),
        ["--output", ".json", "x.csv"],
    ),
    "a format unheard of": (
        "annotation",
        use_flags("pull", *URL, "--project", "mine", "--format", "XML"),
        ["--format", "XML"],
    ),
    "a pull without a token": (
        "annotation",
        use_flags("pull", *URL, "--project", "mine"),
        ["LABEL_STUDIO_API_KEY is not set"],
    ),
}


def write_other_tokenizer(p: ToolInputs) -> str:
    """A folder whose tokenizer.json no version of `tokenizers` can read."""
    p.file('{"tokenizer_class": "PreTrainedTokenizerFast"}', "tokenizer_config.json")
    p.file('{"added_tokens": [], "model": {"a": 1}}', "tokenizer.json")
    return str(p.tmp)


INSPECT: dict[str, Case] = {
    "nothing to inspect": ("inspect", use_flags(), ["name the data"]),
    "no such data": ("inspect", use_flags("no.jsonl"), ["no.jsonl: no such file"]),
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
        lambda p: [p.prompts, "--tokenizer_name_or_path", write_other_tokenizer(p)],
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
