"""Judges out of a user's own Python file."""

import pytest

from training.arguments.parsing import UserError
from training.evaluation.judge_file import load_judge_file


def judge_file(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_score_function_is_a_judge(tmp_path):
    path = judge_file(tmp_path, "def score(texts):\n    return [len(t) for t in texts]\n")
    judges = load_judge_file(path)
    assert list(judges) == ["judge"]
    assert judges["judge"](["a", "bcd"]) == [1.0, 3.0]


def test_judges_come_by_name_and_get_the_arguments_as_text(tmp_path):
    path = judge_file(
        tmp_path,
        "def judges(word, n='1'):\n"
        "    count = lambda texts: [t.count(word) * int(n) for t in texts]\n"
        "    return {'count': count, 'size': lambda texts: map(len, texts)}\n",
    )
    judges = load_judge_file(path, ["a", "2"])
    assert list(judges) == ["count", "size"]
    assert judges["count"](["banana"]) == [6.0]
    assert judges["size"](["banana"]) == [6.0]


def test_a_file_may_hold_dataclasses_and_import_its_neighbour(tmp_path):
    (tmp_path / "beside_the_judge.py").write_text("VALUE = 4.0\n", encoding="utf-8")
    path = judge_file(
        tmp_path,
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from beside_the_judge import VALUE\n"
        "@dataclass\nclass Settings:\n    value: float = VALUE\n"
        "def score(texts):\n    return [Settings().value for t in texts]\n",
    )
    assert load_judge_file(path)["judge"](["a"]) == [4.0]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("x = 1\n", [], r"mine.py: define score\(texts\) or judges\(\)"),
        ("import nothing_of_that_name\n", [], "mine.py:1: the file failed: ModuleNotFoundError"),
        ("x = 1\ny = x +\n", [], "mine.py: the file failed: SyntaxError"),
        ("def judges():\n    return []\n", [], r"judges\(\) must return a dict"),
        ("def judges():\n    return {}\n", [], r"judges\(\) must return a dict"),
        ("def judges():\n    return {'a': 3}\n", [], r"judges\(\) must return a dict"),
        ("def judges():\n    return {'kl': len}\n", [], "cannot be called 'kl'"),
        ("def judges():\n    return 1 / 0\n", [], r"mine.py:2: judges\(\) failed: ZeroDivision"),
        ("def judges():\n    return {'a': len}\n", ["b"], r"judges\(\) failed: TypeError"),
        ("def score(texts):\n    return []\n", ["b"], r"only judges\(\) takes arguments, got 'b'"),
    ],
)
def test_a_file_that_is_no_judge_is_one_line_with_the_place(tmp_path, text, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load_judge_file(judge_file(tmp_path, text), arguments)
    assert str(caught.value).startswith("--judge ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[1.0]", "'judge' returned 1 scores for 2 texts"),
        ("[1.0, float('nan')]", "'judge' returned nan for 'b'"),
        ("[1.0, 'x']", "mine.py|ValueError"),
        ("[t.nothing for t in texts]", "mine.py:2: 'judge' failed: AttributeError"),
        ("None", "'judge' failed: TypeError"),
    ],
)
def test_scores_that_are_not_one_finite_number_a_text_are_refused(tmp_path, body, message):
    path = judge_file(tmp_path, f"def score(texts):\n    return {body}\n")
    with pytest.raises(UserError, match=message):
        load_judge_file(path)["judge"](["a", "b"])
