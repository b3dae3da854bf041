import json
import subprocess
import sys
from typing import Any

import pytest

from tests.data.annotation.exports import annotation, chosen, task
from tests.tiny_models import build_tokenizer
from training.arguments.inspection import InspectArgs
from training.data.inspect import count_by_length, format_findings, inspect
from training.paths import REPOSITORY


def write(folder, name: str, rows: list[Any]) -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def look(folder, rows, **flags):
    return inspect(InspectArgs(data_path=[write(folder, "data.jsonl", rows)], **flags))


def pair(prompt="p", better="good", worse="bad", **more):
    return {"prompt": prompt, "chosen": better, "rejected": worse, **more}


def test_every_bad_row_is_named_with_its_line(tmp_path):
    rows = [pair(), {"prompt": "p", "chosen": "x"}, pair("q", label=2), pair("r", "same", "same")]
    findings = look(tmp_path, rows)
    assert [error.split(": ")[0].rsplit(":", 1)[1] for error in findings.errors] == ["2", "3", "4"]
    assert (findings.rows, len(findings.records)) == (4, 1)


@pytest.mark.parametrize(
    ("row", "stage"),
    [
        (pair(), "reward"),
        ({"prompt": "p", "responses": ["a", "b"], "pairs": [[0, 1]]}, "reward"),
        ({"prompt": "p", "response": "r"}, "sft"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
         "sft"),
        ({"text": "t"}, "pretrain"),
        ({"prompt": "p"}, "ppo"),
    ],
)  # fmt: skip
def test_the_stage_goes_by_the_columns(tmp_path, row, stage):
    assert look(tmp_path, [row]).stage == stage


def test_duplicates_and_conflicts_name_both_places(tmp_path):
    rows = [pair(), pair("q"), pair(), pair(better="bad", worse="good"), pair("q", label=0.2)]
    findings = look(tmp_path, rows)
    (duplicate,) = findings.duplicates
    assert [part.rsplit(":", 1)[1] for part in duplicate.split(" = ")] == ["3", "1"]
    lines = [[p.rsplit(":", 1)[1] for p in text.split(" against ")] for text in findings.conflicts]
    assert lines == [["4", "1"], ["5", "2"]]


def test_a_tie_conflicts_with_nothing(tmp_path):
    assert look(tmp_path, [pair(), pair(better="bad", worse="good", label=0.5)]).conflicts == []


def test_a_held_out_prompt_that_is_trained_on_is_a_leak(tmp_path):
    held_out = write(tmp_path, "eval.jsonl", [pair("What  is RAIN?"), pair("new")])
    findings = look(tmp_path, [pair("what is rain?")], eval_data_path=[held_out])
    assert findings.leaks == [f"{tmp_path}/data.jsonl:1 = {held_out}:1"]


def test_lengths_are_counted_in_tokens_with_eos_and_what_would_be_cut(tmp_path):
    folder = tmp_path / "tokenizer"
    build_tokenizer(["w0", "w1", "<unk>", "<eos>"]).save_pretrained(folder)
    rows = [pair("w0 w1", "w0", "w1 w1 w1"), pair("w0", "w1", "w0 w0")]
    flags = {"tokenizer_name_or_path": str(folder), "max_length": 4}
    findings = look(tmp_path, rows, **flags)
    assert sorted(findings.lengths) == [3, 4, 4, 6]
    assert (findings.length_unit, findings.over_max_length) == ("tokens", 1)


def test_the_histogram_counts_each_length_once():
    lengths = [1, 2, 3, 4, 7, 8, 500, 1000]
    counts = dict(count_by_length(lengths))
    assert sum(counts.values()) == len(lengths)
    assert counts["512-1023"] == 1
    assert dict(count_by_length([])) == {}


def test_a_label_studio_export_is_inspected_as_its_comparisons(tmp_path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps([task(1, annotation(1, 7, chosen("left")))]))
    findings = inspect(InspectArgs(data_path=[str(file)]))
    assert (findings.stage, findings.rows, findings.errors) == ("reward", 1, [])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.data.inspect", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_prints_reports_and_tells_by_its_status(tmp_path):
    good, bad = write(tmp_path, "good.jsonl", [pair()]), write(tmp_path, "bad.jsonl", [pair(), {}])
    done = run(good, "--report", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    assert "stage reward: 1 rows, 1 ResponseGroup" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["errors"] == []
    done = run(bad)
    assert done.returncode == 2
    assert f"{bad}:2: " in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "name the data"),
        (("nowhere.jsonl",), "nowhere.jsonl: no such file"),
        (("--data_path", "x", "--max_length", "0"), "--max_length"),
        (("{text}",), "give --stage ppo or pretrain"),
        (("{bad}",), "no stage has rows of the columns ['x']"),
        (("{good}", "--tokenizer_name_or_path", "./none"), "--tokenizer_name_or_path"),
        (("{good}", "--report", "/proc/none/r.json"), "--report"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, named):
    (tmp_path / "p.txt").write_text("a prompt\n")
    files = {"{text}": str(tmp_path / "p.txt"), "{bad}": write(tmp_path, "b.jsonl", [{"x": 1}]),
             "{good}": write(tmp_path, "g.jsonl", [pair()])}  # fmt: skip
    done = run(*(files.get(word, word) for word in words))
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_at_most_show_findings_are_printed_and_the_rest_is_counted(tmp_path):
    lines = format_findings(look(tmp_path, [pair()] * 30), 256, show=10)
    assert "duplicates: 29" in lines
    assert lines.count("  and 19 more (--show N, or --report FILE)") == 1


def test_unreadable_lines_are_all_named_and_the_rest_is_read(tmp_path):
    good = json.dumps(pair())
    file = tmp_path / "data.jsonl"
    lines = [good, "{broken", good, "[1]", "\udcff", json.dumps({"prompt": "p"}), good]
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    findings = inspect(InspectArgs(data_path=[str(file)]))
    assert sorted(error.split(": ")[0] for error in findings.errors) == [
        f"{file}:{line}" for line in (2, 4, 5, 6)
    ]
    assert (findings.rows, len(findings.records)) == (7, 3)
    table = tmp_path / "data.csv"
    table.write_text('prompt,chosen,rejected\np,a\np,a,b\np,"a"x,b\nq,a,b\n')
    findings = inspect(InspectArgs(data_path=[str(table)]))
    assert [error.split(": ")[0] for error in findings.errors] == [f"{table}:2", f"{table}:4"]
    assert len(findings.records) == 2


def test_at_most_show_errors_are_printed_and_the_rest_is_counted(tmp_path):
    bad = write(tmp_path, "bad.jsonl", [{}] * 30)
    done = run(bad, "--show", "7", "--stage", "reward")
    assert done.returncode == 2
    assert done.stdout.count(f"{bad}:") == 7
    assert "bad rows: 30" in done.stdout
    assert "and 23 more" in done.stdout


def test_dialogues_and_conversations_have_the_lengths_of_training(tmp_path):
    folder = tmp_path / "tokenizer"
    tokenizer = build_tokenizer(["w0", "w1", "w2", "<unk>", "<eos>", "User:", "Assistant:"])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'w2 w2 ' }}{{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}{{ 'w2 w2 ' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    turns = [{"role": "user", "content": "w0 w1"}]
    asked = "w0\n\nHuman: w1\n\nAssistant:"
    rows = [
        # w2 w2 w0 w1 + w2 w2 + w0, and w0 w0 w0, each with EOS
        {"prompt": turns, "chosen": "w0", "rejected": "w0 w0 w0"},
        # three words of the prompt and one or two of the answer, with EOS
        {"chosen": f"{asked} w0", "rejected": f"{asked} w0 w1"},
    ]
    findings = look(tmp_path, rows, tokenizer_name_or_path=str(folder))
    assert findings.errors == []
    assert findings.lengths == [8, 10, 6, 7]


def test_texts_that_share_words_with_held_out_ones_are_leaks(tmp_path):
    words = " ".join(f"word{n}" for n in range(13))
    held_out = write(tmp_path, "eval.jsonl", [{"text": f"before {words}"}])
    findings = look(tmp_path, [{"text": "a"}, {"text": f"{words} after"}],
                    eval_data_path=[held_out])  # fmt: skip
    assert findings.leaks == [
        f"{tmp_path}/data.jsonl:2 shares 13 words in a row with held-out data"
    ]
