"""A server on this machine that gives whatever answers a test wants."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


class Answers:
    """A server on this machine that gives the last answer noted for a method and path."""

    def __init__(self) -> None:
        self.by_question: dict[str, Answer] = {"GET /api/version/": (200, {"edition": "Community"})}
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.cut = ""  # the question whose answer ends too early
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self.rfile.read(length)
                path, _, query = self.path.partition("?")
                question = f"{self.command} {path}"
                outer.asked.append(question)
                outer.tokens.add(self.headers["Authorization"])
                no_page = 404, "<html>no page</html>"
                is_last = "page=2" in query.split("&")
                status, content = no_page if is_last else outer.by_question.get(question, no_page)
                is_page = isinstance(content, str)
                body = content.encode() if is_page else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if is_page else "application/json")
                self.send_header("Content-Length", str(len(body) + 10 * (question == outer.cut)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def page_of(*projects: dict[str, Any]) -> Answer:
    return 200, {"count": len(projects), "next": None, "previous": None, "results": projects}
