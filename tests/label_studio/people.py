"""People who use the server through its API, each with an account of their own."""

import json
from dataclasses import dataclass
from http.cookiejar import CookieJar
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

from tests.label_studio.server import PASSWORD, Running

SECONDS = 60


@dataclass(frozen=True)
class Person:
    """Someone with an account; `token` is of the kind that Label Studio calls legacy."""

    url: str
    token: str

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        body = None if content is None else json.dumps(content).encode()
        question = Request(f"{self.url}/api/{path}", body, headers, method=method)
        try:
            with urlopen(question, timeout=SECONDS) as answer:
                return json.load(answer)
        except HTTPError as error:
            with error:
                said = error.read()[:500]
            raise AssertionError(f"{method} {path}: {error.code} {said!r}") from None

    def tasks(self, project: int) -> list[Any]:
        """All tasks with their annotations and predictions, in the order in which they came."""
        found = self.ask("GET", f"tasks/?project={project}&fields=all&page_size=1000")
        return sorted(found["tasks"], key=lambda task: int(task["id"]))

    def submit(self, task: int, result: list[Any], *, skip: bool = False) -> int:
        """The number of the annotation."""
        content = {"result": result, "was_cancelled": skip, "lead_time": 3.5}
        return int(self.ask("POST", f"tasks/{task}/annotations/", content)["id"])

    def change(self, annotation: int, result: list[Any]) -> None:
        self.ask("PATCH", f"annotations/{annotation}/", {"result": result})


def administrator(server: Running) -> Person:
    return Person(server.url, server.token)


def signed_up(server: Running, email: str) -> Person:
    """A new account, made as a person who was invited makes it."""
    link = urljoin(server.url, administrator(server).ask("GET", "invite")["invite_url"])
    cookies = CookieJar()
    browser = build_opener(HTTPCookieProcessor(cookies))
    browser.open(link, timeout=SECONDS).close()
    (key,) = [str(cookie.value) for cookie in cookies if cookie.name == "csrftoken"]
    form = {"email": email, "password": PASSWORD, "csrfmiddlewaretoken": key}
    question = Request(link, urlencode(form).encode(), {"Referer": server.url})
    browser.open(question, timeout=SECONDS).close()
    with browser.open(f"{server.url}/api/current-user/token", timeout=SECONDS) as answer:
        return Person(server.url, json.load(answer)["token"])
