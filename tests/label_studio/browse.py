"""A person at the labelling page: logs in, looks, clicks. Runs where Playwright is installed.

    python browse.py '{"url": ..., "email": ..., "password": ..., "project": 7, "browser": ...,
                       "screenshot": ..., "text": ..., "steps": [[text, answer or ""], ...]}'

Opens the project's label stream, waits for `text`, and prints as JSON what stood there, how wide
the two sides of a comparison were, and every other host that the page wanted. Then, step by step:
waits for the task with that text, clicks the answer if one is named, and submits.
"""

import json
import sys
from typing import Any
from urllib.parse import urlsplit

try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:
    raise SystemExit("runs in the environment of the server, with Playwright in it") from None

SUBMIT = "button[name=submit]"
SECONDS = 120  # for anything to appear, on a busy machine
ALONE = [
    "--no-sandbox",  # as root
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


WIDTHS = "[...document.querySelectorAll('.side')].map(side => side.getBoundingClientRect().width)"


def label(page: Page, wanted: dict[str, Any]) -> dict[str, Any]:
    page.goto(f"{wanted['url']}/user/login/")
    page.fill("input[name=email]", wanted["email"])
    page.fill("input[name=password]", wanted["password"])
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)
    page.goto(f"{wanted['url']}/projects/{wanted['project']}/data?labeling=1")
    page.locator(SUBMIT).wait_for()
    page.get_by_text(wanted["text"]).first.wait_for()
    shown = page.locator("body").inner_text().splitlines()
    widths = page.evaluate(WIDTHS)
    page.screenshot(path=wanted["screenshot"])
    for text, answer in wanted["steps"]:
        page.get_by_text(text).first.wait_for()
        if answer:
            page.get_by_text(answer, exact=True).first.click()
        with page.expect_response(lambda answer: "/annotations" in answer.url):
            page.click(SUBMIT)
    return {"shown": [line.strip() for line in shown if line.strip()], "widths": widths}


def main() -> None:
    wanted = json.loads(sys.argv[1])
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=wanted["browser"], args=ALONE)
        page = browser.new_page(viewport={"width": 1100, "height": 560})
        page.set_default_timeout(1000 * SECONDS)
        page.on("request", lambda request: asked.append(str(urlsplit(request.url).hostname)))
        seen = label(page, wanted)
        browser.close()
    hosts = sorted(set(asked) - {"127.0.0.1", "None"})
    print(json.dumps({**seen, "other_hosts": hosts}))


if __name__ == "__main__":
    main()
