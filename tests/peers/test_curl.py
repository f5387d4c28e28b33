"""curl as a second opinion: of the same URL it gets the same status, the same bytes, by the same way."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import test_hypercorn, test_nginx
from tests.peers.conftest import Asker, Came, Peer, asking

CURL = shutil.which("curl")

pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")

MORE = (
    "/redirect-to?url=%3Fquery",
    "/redirect-to?url=../../utf8",
    "/redirect-to?url=/utf8%3Fa=b%26c",
    "/redirect-to?url=/%2e%2e/utf8",
)


def seen_by_curl(version: str, roots: str, urls: list[str], folder: Path) -> list[tuple[Any, ...]]:
    """One run for all: status, redirects, where they ended, and what came; status 0 for what failed."""
    files = [folder / f"{version}-{number}" for number in range(len(urls))]
    targets = [argument for url, file in zip(urls, files, strict=True) for argument in ("-o", str(file), url)]
    command = [
        str(CURL), "--disable", "--silent", version, "--cacert", roots, "--location", "--max-redirs", "20",
        "--compressed", "--max-time", "20", "--write-out", "%{json}\n", *targets,
    ]  # fmt: skip
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    seen: list[tuple[Any, ...]] = []
    for line, file in zip(lines, files, strict=True):
        said = json.loads(line)
        if said["exitcode"]:
            seen.append((0,))
        else:
            body = file.read_bytes() if file.exists() else b""
            seen.append(shown(said["http_code"], said["num_redirects"], said["url_effective"], body))
    return seen


def seen_by_us(asker: Asker, urls: list[str]) -> list[tuple[Any, ...]]:
    """One after another: hypercorn ends a connection over one bad answer, and with it what is beside that."""
    seen: list[tuple[Any, ...]] = []
    for url in urls:
        came = asker.fetch(url)
        if isinstance(came, Came):
            seen.append(shown(came.status, came.fetched.requests - 1, came.fetched.url, came.body))
        else:
            seen.append((0,))
    return seen


def shown(status: int, redirects: int, url: str, body: bytes) -> tuple[Any, ...]:
    return (status, redirects, url.partition("#")[0], len(body), hashlib.sha256(body).hexdigest())


@pytest.fixture(scope="module", params=["hypercorn", "nginx"])
def peer(request: pytest.FixtureRequest) -> tuple[Peer, list[str]]:
    of_peer: Peer = request.getfixturevalue(request.param)
    tables = {
        "hypercorn": [*test_hypercorn.TABLE, *test_hypercorn.FAILURES, *MORE],
        "nginx": [*test_nginx.TABLE, *test_nginx.FAILURES],
    }
    # What never ends; what our lookup server refuses, and curl's would try; more headers than we take.
    skipped = {"/forever", "/redirect-to?url=http://10.0.0.1/", "/large-headers/200"}
    return of_peer, [path for path in tables[request.param] if path not in skipped]


@pytest.fixture
def asker(peer: tuple[Peer, list[str]]) -> Iterator[Asker]:
    with asking(peer[0].roots) as asker:
        yield asker


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_sees_the_same(peer: tuple[Peer, list[str]], asker: Asker, version: str, tmp_path: Path) -> None:
    server, paths = peer
    roots = tmp_path / "roots.pem"
    roots.write_text(server.roots)
    base = server.plain if version == "--http1.1" else server.secure
    urls = [base + path for path in paths]
    theirs = seen_by_curl(version, str(roots), urls, tmp_path)
    ours = seen_by_us(asker, urls)
    differing = {path: pair for path, *pair in zip(paths, ours, theirs, strict=True) if pair[0] != pair[1]}
    assert differing == {}
