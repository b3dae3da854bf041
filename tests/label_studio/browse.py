"""A person at the labelling page: logs in, looks, clicks. Runs where Playwright is installed.

    python browse.py '{"url": ..., "email": ..., "password": ..., "project": 7, "browser": ...,
                       "screenshot": ..., "clicks": ["text to click", ...]}'

Opens the project's label stream, clicks each text of the page in turn, and prints as JSON the
texts that stood there before the first click, and every other host that the page wanted.
"""

import json
import sys
from typing import Any
from urllib.parse import urlsplit

try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:
    raise SystemExit("runs in the environment of the server, with Playwright in it") from None

ALONE = [
    "--no-sandbox",  # as root
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def label(page: Page, wanted: dict[str, Any]) -> list[str]:
    page.goto(f"{wanted['url']}/user/login/")
    page.fill("input[name=email]", wanted["email"])
    page.fill("input[name=password]", wanted["password"])
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)
    page.goto(f"{wanted['url']}/projects/{wanted['project']}/data?labeling=1")
    page.get_by_role("button", name="Submit").wait_for()
    page.get_by_text(wanted["text"]).first.wait_for()
    shown = page.locator("body").inner_text().splitlines()
    page.screenshot(path=wanted["screenshot"])
    for text in wanted["clicks"]:
        page.get_by_text(text, exact=True).first.click()
        page.wait_for_timeout(1000)
    return [line.strip() for line in shown if line.strip()]


def main() -> None:
    wanted = json.loads(sys.argv[1])
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=wanted["browser"], args=ALONE)
        page = browser.new_page(viewport={"width": 1100, "height": 560})
        page.on("request", lambda request: asked.append(str(urlsplit(request.url).hostname)))
        shown = label(page, wanted)
        browser.close()
    hosts = sorted(set(asked) - {"127.0.0.1", "None"})
    print(json.dumps({"shown": shown, "other_hosts": hosts}))


if __name__ == "__main__":
    main()
