"""push and pull from the command line, against a server that gives the answers that hurt."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.data.annotation.answers import Answers, page_of
from training.arguments.annotation import PullArgs, PushArgs
from training.arguments.parsing import UserError
from training.data.annotation.__main__ import main
from training.data.annotation.exchange import push
from training.data.annotation.server import TOKEN, Server
from training.data.annotation.tasks import PAIRWISE_CONFIG, RANKER_CONFIG

SECRET = "5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2"


@pytest.fixture
def answers(monkeypatch) -> Iterator[Answers]:
    pytest.importorskip("label_studio_sdk", reason="pip install -e '.[label-studio]'")
    monkeypatch.setattr("label_studio_sdk.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.0)
    monkeypatch.setenv(TOKEN, SECRET)
    served = Answers()
    yield served
    served.close()


@pytest.fixture
def tasks(tmp_path):
    data = [{"prompt": "q", "answer1": "a", "answer2": f"b{n}"} for n in range(3)]
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": row} for row in data]))
    (tmp_path / "tasks.xml").write_text(PAIRWISE_CONFIG)
    return str(tmp_path / "tasks.json")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the program; (status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["annotation", *words])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(str(ended.code))
        shown = capsys.readouterr()
        assert SECRET not in shown.out + shown.err
        return status, shown.out, shown.err

    return run


def one_line(ended: tuple[int, str, str]) -> str:
    status, out, err = ended
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "--label_studio_url must be like http://localhost:8080, got ''"),
        ({"label_studio_url": "localhost:8080"}, "must be like http://localhost:8080"),
        ({"label_studio_url": "ftp://h"}, "must be like"),
        ({"label_studio_url": "http://"}, "must be like"),
        ({"label_studio_url": "http://h:99999"}, "must be like"),
        ({"label_studio_url": "http://a:b@h"}, "no user and no password"),
        ({"label_studio_url": "http://h/projects?tab=3"}, "without what follows"),
        ({"tasks": "nowhere.json"}, "--tasks: no file at nowhere.json"),
        ({"tasks": ""}, "name the file of tasks"),
        ({"label_config": "nowhere.xml"}, "--label_config: no file at nowhere.xml"),
        ({"project": "ab"}, "3 to 50 characters, got 'ab'"),
        ({"project": "x" * 51}, "3 to 50 characters"),
        ({"annotations_per_task": 0}, "--annotations_per_task must be positive"),
    ],
)
def test_bad_flags_of_push_are_refused(changes, expected, tasks):
    flags = {"label_studio_url": "http://h:8080"} if changes else {}
    with pytest.raises(UserError) as refused:
        PushArgs(**({"tasks": tasks} | flags | changes))
    assert expected in str(refused.value)


def test_tasks_without_a_page_beside_them_need_one_named(tasks, tmp_path):
    (tmp_path / "tasks.xml").rename(tmp_path / "page.xml")
    with pytest.raises(UserError, match=r"no labelling config at .*tasks\.xml; name it with"):
        PushArgs(tasks=tasks, label_studio_url="http://h")
    named = PushArgs(
        tasks=tasks, label_studio_url="http://h", label_config=str(tmp_path / "page.xml")
    )
    assert named.page.endswith("page.xml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"project": ""}, "--project: name the project"),
        ({"output": "export.csv"}, "must name a .json file for --format JSON"),
        ({"output": "export.json", "format": "CSV"}, "must name a .csv file for --format CSV"),
        ({"output": "/dev/null/x.json"}, "--output"),
    ],
)
def test_bad_flags_of_pull_are_refused(changes, expected):
    with pytest.raises(UserError) as refused:
        PullArgs(**({"project": "7", "label_studio_url": "http://h"} | changes))
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (None, f"{TOKEN} is not set"),
        ("  ", f"{TOKEN} is not set"),
        (f"{SECRET}\n{SECRET}", f"{TOKEN} holds characters"),
        (f"{SECRET}é", f"{TOKEN} holds characters"),
        (f"Token {SECRET}", f"{TOKEN} holds characters"),
    ],
)
def test_a_token_that_is_none_is_one_line(token, expected, command, tasks, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    if token is not None:
        monkeypatch.setenv(TOKEN, token)
    error = one_line(command("push", tasks, "--label_studio_url", "http://127.0.0.1:1"))
    assert expected in error
    assert "Account & Settings" in error


def test_a_personal_access_token_that_has_expired_is_one_line(command, answers, monkeypatch):
    header, claims = ("eyJhbGciOiJIUzI1NiJ9", "eyJ0b2tlbl90eXBlIjoicmVmcmVzaCIsImV4cCI6MX0")
    monkeypatch.setenv(TOKEN, f"{header}.{claims}.AAAA")  # {"token_type": "refresh", "exp": 1}
    error = one_line(command("pull", "--label_studio_url", answers.url, "--project", "7"))
    assert f"refuses the token in {TOKEN} (401: API key has expired" in error
    assert claims not in error


def test_without_the_extra_its_installation_is_named(command, tasks, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setitem(sys.modules, "label_studio_sdk.client", None)
    error = one_line(command("push", tasks, "--label_studio_url", "http://127.0.0.1:1"))
    assert "pip install -c constraints.txt -e '.[label-studio]'" in error


def test_a_server_that_is_not_there_is_one_line(command, answers):
    answers.close()
    error = one_line(command("pull", "--label_studio_url", answers.url, "--project", "7"))
    assert error.startswith(f"annotation: error: --label_studio_url {answers.url}: cannot be")
    assert "refused" in error


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((401, {"detail": f"Invalid token {SECRET}."}), f"refuses the token in {TOKEN} (401: Inv"),
        ((403, {"detail": "Not for you."}), "may not do this (403: Not for you.)"),
        ((500, {"detail": f"boom {SECRET}"}), f"failed (500: boom ${TOKEN})"),
        ((502, "<html>Bad gateway</html>"), "failed (502)"),
        ((302, ""), "answers, but not as Label Studio (302)"),
        ((404, "<html>"), "answers, but not as Label Studio (404)"),
        ((200, "<html>Welcome</html>"), "answers, but not as Label Studio"),
        ((200, {"results": [{}]}), "answers, but not as Label Studio"),
        ((200, [1, 2]), "answers, but not as Label Studio"),
        (
            (400, {"detail": "Validation error", "validation_errors": {"title": ["too long"]}}),
            "(400: Validation error; title: too long)",
        ),
    ],
)
def test_what_a_server_answers_instead_is_one_line(command, answers, answer, expected):
    answers.by_question["GET /api/projects/"] = answer
    error = one_line(command("pull", "--label_studio_url", answers.url, "--project", "mine"))
    assert expected in error


def test_a_failed_server_is_asked_again_unless_it_might_do_a_thing_twice(command, answers, tasks):
    answers.by_question["GET /api/projects/"] = page_of()
    answers.by_question["POST /api/projects/"] = (500, {"detail": "boom"})
    assert "500" in one_line(command("push", tasks, "--label_studio_url", answers.url))
    assert answers.asked.count("POST /api/projects/") == 1
    answers.by_question["GET /api/projects/"] = (503, {})
    answers.asked.clear()
    assert "503" in one_line(command("push", tasks, "--label_studio_url", answers.url))
    assert answers.asked.count("GET /api/projects/") == 3


def test_the_token_is_sent_and_no_failure_leads_to_it(answers, tasks):
    answers.by_question["GET /api/projects/"] = (401, {"detail": SECRET})
    with closing(Server(answers.url)) as server, pytest.raises(UserError) as refused:
        push(server, tasks, tasks[:-4] + "xml", name="tasks", annotations_per_task=1)
    assert answers.tokens == {f"Token {SECRET}"}
    assert refused.value.__context__ is None
    assert refused.value.__cause__ is None
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert SECRET not in repr(server)


def test_projects_of_one_title_need_a_number(command, answers):
    same = [{"id": 8, "title": "mine"}, {"id": 3, "title": "mine"}, {"id": 4, "title": "mine too"}]
    answers.by_question["GET /api/projects/"] = page_of(*same)
    error = one_line(command("pull", "--label_studio_url", answers.url, "--project", "mine"))
    assert "2 projects" in error
    assert error.endswith("give the number: 3, 8\n")


@pytest.mark.parametrize("name", ["mine", "7"])
def test_a_project_that_is_not_there_is_named_beside_those_that_are(command, answers, name):
    answers.by_question["GET /api/projects/"] = page_of({"id": 4, "title": "mine too"})
    answers.by_question["GET /api/projects/7/"] = (404, {"detail": "No Project matches."})
    error = one_line(command("pull", "--label_studio_url", answers.url, "--project", name))
    assert f"--project {name}: no such project" in error
    assert error.endswith("it has 'mine too' (4)\n")


def test_a_project_that_asks_something_else_gets_no_tasks(command, answers, tasks):
    other = {"id": 7, "title": "ranks", "label_config": RANKER_CONFIG, "task_number": 3}
    answers.by_question["GET /api/projects/7/"] = (200, other)
    error = one_line(command("push", tasks, "--label_studio_url", answers.url, "--project", "7"))
    assert "project 'ranks' (7) has another labelling config than" in error
    assert not any(question.startswith("POST") for question in answers.asked)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"data": {"prompt": "q", "answer1": "a"}}], "row 1: the task's data lack ['answer2']"),
        ([{"data": {}, "annotations": []}], "row 1: is an export"),
        ([{"prompt": "q"}], "row 1: is no task (keys ['prompt'])"),
        ([], "the file has no rows"),
    ],
)
def test_what_is_not_a_task_of_the_page_is_refused(command, answers, tasks, rows, expected):
    with open(tasks, "w") as file:
        json.dump(rows, file)
    assert expected in one_line(command("push", tasks, "--label_studio_url", answers.url))
    assert answers.asked == []


@pytest.mark.parametrize("fault", ["cut short", "a page", "no export", "failed"])
def test_a_pull_that_fails_leaves_the_earlier_export(command, answers, tmp_path, fault):
    project = {"id": 7, "title": "mine", "label_config": PAIRWISE_CONFIG, "task_number": 3}
    answers.by_question["GET /api/projects/7/"] = (200, project)
    content: Any = [{"id": 1, "data": {}, "annotations": []}]
    status = 200
    if fault == "a page":
        content = "<html>Log in</html>"
    elif fault == "no export":
        content = [{"a": 1}]
    elif fault == "cut short":
        answers.cut = "GET /api/projects/7/export"
    elif fault == "failed":
        status, content = 500, {"detail": "boom"}
    answers.by_question["GET /api/projects/7/export"] = (status, content)
    output = tmp_path / "export.json"
    words = ("pull", "--label_studio_url", answers.url, "--project", "7", "--output", str(output))
    output.write_text("the earlier one")
    one_line(command(*words))
    assert output.read_text() == "the earlier one"
    assert [file.name for file in tmp_path.iterdir()] == ["export.json"]
