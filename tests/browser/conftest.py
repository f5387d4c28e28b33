"""A browser and real servers, shared by the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import pytest
from PIL import Image
from tests.servers import Authority, Server

from cloister import Browser, NetworkPolicy, Page


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def ca_file(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "roots.pem"
    path.write_text(authority.roots)
    return str(path)


@pytest.fixture(scope="module")
def browser(ca_file: str) -> Iterator[Browser]:
    network = NetworkPolicy(
        allow_hosts=["127.0.0.1", "localhost"],
        max_response_bytes=4 * 1024 * 1024,
        request_timeout=5,
        max_redirects=10,
    )
    with Browser(network=network, ca_certs=ca_file, viewport={"width": 400, "height": 300}) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_page() as page:
        yield page


def pixels(png: bytes) -> Image.Image:
    """A screenshot, as Pillow sees it."""
    image = Image.open(BytesIO(png))
    image.load()
    return image
