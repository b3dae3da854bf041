"""A Label Studio server, asked through its SDK, which nothing else imports.

The token comes from the environment and goes to the server alone: the error of a failed request
holds neither it nor the headers of an answer, which may hold a session.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from training.arguments.parsing import UserError

T = TypeVar("T")

TOKEN = "LABEL_STUDIO_API_KEY"
SECONDS = 60.0  # to wait for an answer
EXPORT_SECONDS = 1800  # the server makes an export while the client waits
MOST_SHOWN = 300  # characters of a server's message
MOST_LISTED = 10  # projects
# The SDK repeats a failed request; one that creates something might then create it twice.
ONCE = {"max_retries": 0}
HELP_WITH_TOKEN = "copy one from Label Studio, Account & Settings"


@dataclass(frozen=True)
class Project:
    """A project as the server knows it; `page` is its labelling config."""

    number: int
    title: str
    page: str
    tasks: int

    def __str__(self) -> str:
        return f"project '{self.title}' ({self.number})"


class Server:
    """Projects, tasks and exports of a Label Studio server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._token = read_token()
        try:
            import httpx
            from label_studio_sdk.client import LabelStudio
            from label_studio_sdk.core.api_error import ApiError
        except ImportError:
            raise UserError(
                "--label_studio_url needs Label Studio's client: pip install -c constraints.txt "
                "-e '.[label-studio]'"
            ) from None
        self._slow, self._unreachable = httpx.TimeoutException, httpx.RequestError
        self._api_error = ApiError
        # A redirect would turn a POST into a GET: the user must give the final address.
        self._web = httpx.Client(timeout=SECONDS, follow_redirects=False)
        self._connect = partial(
            LabelStudio, base_url=self.url, api_key=self._token, httpx_client=self._web
        )
        self._client = self._ask(lambda: self._connect(timeout=SECONDS))

    def close(self) -> None:
        self._web.close()

    def find(self, name: str) -> Project | None:
        """Return the project with this number or else this exact title; None without either."""
        if name.isdecimal():
            return self._get(name)
        numbers = [number for number, title in self._list_titles() if title == name]
        if len(numbers) > 1:
            listed = ", ".join(map(str, sorted(numbers)))
            raise UserError(
                f"--project: {len(numbers)} projects at {self.url} have the title '{name}'; give "
                f"the number: {listed}"
            )
        return self._get(str(numbers[0])) if numbers else None

    def get(self, name: str) -> Project:
        """Return the project with this number or this exact title."""
        project = self.find(name)
        if project is None:
            raise self._refuse_project(name)
        return project

    def create(self, title: str, page: str, *, annotations_per_task: int) -> Project:
        made = self._ask(
            lambda: self._client.projects.create(
                title=title,
                label_config=page,
                maximum_annotations=annotations_per_task,
                # People who are shown a choice tend to agree with it.
                show_collab_predictions=False,
                request_options=ONCE,
            )
        )
        return Project(int(made.id), title, page, 0)

    def list_task_data(self, project: Project) -> list[dict[str, Any]]:
        """Return the data of all tasks, without annotations."""
        what = {"fields": "task_only", "include": "id,data", "page_size": 1000}
        return self._ask(
            lambda: [t.data for t in self._client.tasks.list(project=project.number, **what)]
        )

    def add(self, project: Project, tasks: Sequence[dict[str, Any]]) -> None:
        self._ask(
            lambda: self._client.projects.import_tasks(
                id=project.number, request=list(tasks), request_options=ONCE
            )
        )

    def export(self, project: Project, form: str) -> str:
        """Export all tasks with their annotations, as Label Studio's Export button does."""
        data: bytes = self._ask(
            lambda: self._connect(timeout=EXPORT_SECONDS).projects.exports.as_binary(
                project.number, export_type=form, timeout=EXPORT_SECONDS
            )
        )
        return data.decode("utf-8")

    def _get(self, number: str) -> Project:
        def ask() -> Project:
            project = self._client.projects.get(int(number))
            page, tasks = project.label_config or "", project.task_number or 0
            return Project(int(project.id), str(project.title), str(page), int(tasks))

        return self._ask(ask, missing=number)

    def _list_titles(self) -> list[tuple[int, str]]:
        what = {"include": "id,title", "page_size": 100}
        return self._ask(lambda: [(int(p.id), p.title) for p in self._client.projects.list(**what)])

    def _refuse_project(self, name: str) -> UserError:
        known = [f"'{title}' ({number})" for number, title in sorted(self._list_titles())]
        more = ", ..." if len(known) > MOST_LISTED else ""
        listed = f"it has {', '.join(known[:MOST_LISTED])}{more}" if known else "it has none"
        return UserError(f"--project {name}: no such project at {self.url}; {listed}")

    def _ask(self, question: Callable[[], T], *, missing: str = "") -> T:
        """Return the server's answer; whatever fails is one line for the user.

        `missing` is the project that does not exist if the server answers 404.
        """
        try:
            return question()
        except self._slow:
            problem = (
                f"--label_studio_url {self.url}: no answer in time; run the same command again: "
                "what the server has taken it keeps"
            )
        except self._unreachable as error:
            reason = str(error) or type(error).__name__
            problem = f"--label_studio_url {self.url}: cannot be reached: {reason}"
        except self._api_error as error:
            status, body = error.status_code, error.body
            problem = self._describe_refusal(status, body)
            if status == 404 and missing and isinstance(body, dict):
                problem = ""
        except (ValueError, TypeError, AttributeError) as error:
            # From the SDK, for an answer that is not Label Studio's or a call that it has lost.
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:MOST_SHOWN]
            problem = f"{self._describe_refusal(None, '')} ({self._hide_token(reason)})"
        # Raised outside of `except`, so that no traceback leads to what the SDK knows.
        raise UserError(problem) if problem else self._refuse_project(missing)

    def _hide_token(self, text: str) -> str:
        return text.replace(self._token, f"${TOKEN}")

    def _describe_refusal(self, status: int | None, body: Any) -> str:
        reason = self._hide_token(_extract_message(body))
        if status == 401:
            return (
                f"{self.url} refuses the token in {TOKEN} (401{reason}); {HELP_WITH_TOKEN} (a "
                "legacy token works only where its organization allows them)"
            )
        if status == 403:
            return f"{self.url}: the owner of the token may not do this (403{reason})"
        if not isinstance(body, dict) and (status is None or status < 500):
            return (
                f"--label_studio_url {self.url}: answers, but not as Label Studio"
                f"{f' ({status})' if status else ''}; give the address of its first page"
            )
        return (
            f"{self.url} failed ({status}{reason}); what it has taken so far it keeps, and the "
            "same command continues from there"
        )


def read_token() -> str:
    """Read the user's token, of either kind; errors show nothing of it."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UserError(f"{TOKEN} is not set: it must hold your token; {HELP_WITH_TOKEN}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{TOKEN} holds characters that no token has; {HELP_WITH_TOKEN}")
    return token


def _extract_message(body: Any) -> str:
    """Return a server's error message, short and after a colon; empty if the body is a page."""
    if not isinstance(body, dict):
        return ""
    errors = body.get("validation_errors")
    parts = [str(body["detail"])] if body.get("detail") else []
    if isinstance(errors, dict):
        parts += [
            f"{name}: {text}"
            for name, texts in errors.items()
            for text in (texts if isinstance(texts, list) else [texts])
        ]
    text = "; ".join(parts)
    return f": {text[:MOST_SHOWN]}{'...' if len(text) > MOST_SHOWN else ''}" if text else ""
