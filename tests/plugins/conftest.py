"""One runtime for all tests of a module: a zygote takes a third of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloister.plugins.runtime import PluginRuntime


@pytest.fixture(scope="module")
def runtime() -> Iterator[PluginRuntime]:
    with PluginRuntime() as made:
        yield made


@pytest.fixture(autouse=True)
def unloaded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test starts without plugins."""
    yield
    if "runtime" in request.fixturenames:
        made: PluginRuntime = request.getfixturevalue("runtime")
        for plugin in made.plugins:
            made.unload(plugin.name)
