"""Our two labelling configs as annotators see them, in a real browser."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.label_studio.people import Person
from tests.label_studio.server import EMAIL, PASSWORD, NotInstalledError, with_playwright
from tests.label_studio.test_round_trip import pair, write_tasks
from training.data.annotation.tasks import RANKER_CONFIG, add_prediction

pytestmark = [
    pytest.mark.label_studio,
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.timeout(1800),
]

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def look(server) -> Look:
    """Opens a project's labelling page and clicks; what browse.py printed."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    try:
        python = with_playwright()
    except NotInstalledError as error:
        pytest.skip(str(error))

    def look(project: int, screenshot: Path, text: str, *steps: tuple[str, str]) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "url": server.url,
            "email": EMAIL,
            "password": PASSWORD,
            "project": project,
            "browser": browser,
            "screenshot": str(screenshot),
            "text": text,
            "steps": steps,
        }
        program = Path(__file__).with_name("browse.py")
        command = [str(python), str(program), json.dumps(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
        seen: dict[str, Any] = json.loads(done.stdout)
        assert seen["other_hosts"] == []
        assert screenshot.stat().st_size > 10_000
        return seen

    return look


def pushed(command: Any, server: Any, file: Path, title: str) -> int:
    (line,) = command("push", file, "--label_studio_url", server.url, "--project", title)
    return int(line.rsplit("/", 1)[1])


def choices(ann: Person, project: int) -> list[Any]:
    """Return the choice in each task; None if it was submitted without one."""
    tasks = ann.tasks(project)
    results = [entry["result"] for task in tasks for entry in task["annotations"]]
    return [result[0]["value"]["selected"] if result else None for result in results]


def test_the_page_of_comparisons_shows_both_answers_and_takes_a_click(
    server, ann, command, look, tmp_path
):
    plain = pair(1)
    plain["data"] |= {"answer1": "The left answer.", "answer2": "右边的回答 👩\u200d🚀"}
    guessed = [add_prediction(pair(n), (0.0, 3.0), model_version="reward") for n in (2, 3)]
    project = pushed(command, server, write_tasks(tmp_path, [plain, *guessed]), "page of pairs")
    steps = [("question 1", "The left answer."), ("question 2", "")]
    seen = look(project, tmp_path / "page.png", "question 1", *steps)
    shown, (left, right) = seen["shown"], seen["widths"]
    assert left == pytest.approx(right)  # side by side, whatever the texts' lengths
    assert left > 300
    assert "question 1" in shown
    assert "The left answer." in shown
    assert "右边的回答 👩\u200d🚀" in shown
    assert any(line.startswith("Which answer is better?") for line in shown)
    assert any("Skip" in line for line in shown)
    # The second was submitted as it came: the model's choice was not chosen beforehand.
    assert choices(ann, project) == ["left", None]
    # Where a project is told to show predictions, the page can read ours.
    ann.ask(
        "PATCH",
        f"projects/{project}/",
        {"show_collab_predictions": True, "model_version": "reward"},
    )
    look(project, tmp_path / "page.png", "question 3", ("question 3", ""))
    assert choices(ann, project) == ["left", None, "right"]


def test_the_page_of_rankings_shows_all_answers(server, command, look, tmp_path):
    items = [{"id": f"a{n}", "title": f"Answer {n}", "body": f"text {n}"} for n in (1, 2, 3)]
    tasks = [{"data": {"prompt": "Rank these.", "items": items}}]
    project = pushed(command, server, write_tasks(tmp_path, tasks, RANKER_CONFIG), "page of ranks")
    shown = look(project, tmp_path / "page.png", "Rank these.")["shown"]
    for text in ("Rank these.", "text 1", "text 2", "text 3", "Answer 1", "Answer 3"):
        assert text in shown
