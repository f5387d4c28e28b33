"""Open what you don't trust.

Every page, every network response and every image is handled in an operating-system process of its own that
can do nothing but answer on its channel::

    from cloister import Browser

    with Browser() as browser:
        page = browser.new_page()
        page.goto("https://example.org/")
        page.screenshot("example.png")

So does code that nobody vouches for::

    from cloister import PluginRuntime

    with PluginRuntime() as runtime:
        runtime.load_source("def double(x): return 2 * x", name="arithmetic")
        print(runtime.call("arithmetic", "double", 21))

The names below are imported when they are first used: a child process must not carry the browser in its memory.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 10 ms to load, and here begins every process
if TYPE_CHECKING:
    from typing import Any

    from .browser import (
        APIRequestContext,
        APIResponse,
        AsyncAPIRequestContext,
        AsyncAPIResponse,
        AsyncBrowser,
        AsyncBrowserContext,
        AsyncPage,
        Browser,
        BrowserContext,
        Download,
        DownloadProgress,
        Image,
        Link,
        NetworkPolicy,
        Page,
        ProcessInfo,
        Response,
    )
    from .errors import (
        AddressRefused,
        BadMessage,
        BrowserClosed,
        CapabilityRefused,
        CircuitOpen,
        CloisterError,
        ConnectionClosed,
        CpuLimit,
        DependencyError,
        DiskLimit,
        DownloadFailed,
        HostError,
        ImageError,
        InvalidArgument,
        LaunchError,
        LimitExceeded,
        ManifestError,
        MemoryLimit,
        NavigationError,
        NoSuchFunction,
        NoSuchPlugin,
        NotSendable,
        OutputLimit,
        PageClosed,
        PageCrashed,
        PluginCrashed,
        PluginError,
        PluginRaised,
        ProcessError,
        ProcessLimit,
        ResultLimit,
        RuntimeClosed,
        SandboxUnavailable,
        Timeout,
        TimeoutError,
    )
    from .ipc.shared_buffer import SharedBuffer
    from .plugins.async_runtime import AsyncPluginRuntime
    from .plugins.file_watcher import Debounce
    from .plugins.isolated import isolated
    from .plugins.limits import Limits
    from .plugins.namespaces import Namespaces
    from .plugins.plugin import Plugin
    from .plugins.pool import PluginPool
    from .plugins.profiles import Profile
    from .plugins.recovery import CircuitBreaker, Retries
    from .plugins.runtime import PluginRuntime

__version__ = "0.1.0"

__all__ = [
    "APIRequestContext",
    "APIResponse",
    "AddressRefused",
    "AsyncAPIRequestContext",
    "AsyncAPIResponse",
    "AsyncBrowser",
    "AsyncBrowserContext",
    "AsyncPage",
    "AsyncPluginRuntime",
    "BadMessage",
    "Browser",
    "BrowserClosed",
    "BrowserContext",
    "CapabilityRefused",
    "CircuitBreaker",
    "CircuitOpen",
    "CloisterError",
    "ConnectionClosed",
    "CpuLimit",
    "Debounce",
    "DependencyError",
    "DiskLimit",
    "Download",
    "DownloadFailed",
    "DownloadProgress",
    "HostError",
    "Image",
    "ImageError",
    "InvalidArgument",
    "LaunchError",
    "LimitExceeded",
    "Limits",
    "Link",
    "ManifestError",
    "MemoryLimit",
    "Namespaces",
    "NavigationError",
    "NetworkPolicy",
    "NoSuchFunction",
    "NoSuchPlugin",
    "NotSendable",
    "OutputLimit",
    "Page",
    "PageClosed",
    "PageCrashed",
    "Plugin",
    "PluginCrashed",
    "PluginError",
    "PluginPool",
    "PluginRaised",
    "PluginRuntime",
    "ProcessError",
    "ProcessInfo",
    "ProcessLimit",
    "Profile",
    "Response",
    "ResultLimit",
    "Retries",
    "RuntimeClosed",
    "SandboxUnavailable",
    "SharedBuffer",
    "Timeout",
    "TimeoutError",
    "__version__",
    "isolated",
]

_BROWSER = (
    "APIRequestContext APIResponse AsyncAPIRequestContext AsyncAPIResponse AsyncBrowser AsyncBrowserContext"
    " AsyncPage Browser BrowserContext Download DownloadProgress Image Link NetworkPolicy Page ProcessInfo Response"
)
_PLACES = {
    **dict.fromkeys(_BROWSER.split(), "cloister.browser"),
    "AsyncPluginRuntime": "cloister.plugins.async_runtime",
    "CircuitBreaker": "cloister.plugins.recovery",
    "Debounce": "cloister.plugins.file_watcher",
    "Limits": "cloister.plugins.limits",
    "Namespaces": "cloister.plugins.namespaces",
    "Plugin": "cloister.plugins.plugin",
    "PluginPool": "cloister.plugins.pool",
    "Profile": "cloister.plugins.profiles",
    "PluginRuntime": "cloister.plugins.runtime",
    "Retries": "cloister.plugins.recovery",
    "SharedBuffer": "cloister.ipc.shared_buffer",
    "isolated": "cloister.plugins.isolated",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cloister' has no attribute {name!r}")
    import importlib  # here: nothing that every start waits for

    return getattr(importlib.import_module(_PLACES.get(name, "cloister.errors")), name)
