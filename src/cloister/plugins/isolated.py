"""``@isolated``: a function that runs in a fresh sandboxed process each time it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, overload

from .capabilities import Held
from .functions import bundle
from .limits import Limits
from .shared_runtime import shared_runtime
from .spec import Spec

__all__ = ["isolated"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def isolated(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def isolated(
    *,
    memory: int | str | None = ...,
    timeout: float | None = ...,
    cpu_time: float | None = ...,
    limits: Limits | None = ...,
    modules: Iterable[str] = ...,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def isolated(
    function: Callable[..., Any] | None = None,
    /,
    *,
    memory: int | str | None = None,
    timeout: float | None = None,
    cpu_time: float | None = None,
    limits: Limits | None = None,
    modules: Iterable[str] = (),
) -> Any:
    """Have a function run in a process of its own, which can do nothing but compute, and ends with it::

        @isolated(memory="50 MiB", timeout=5)
        def parse(text):
            import json
            return json.loads(text)

    Not a fork of this program: the process begins without anything that this one has in memory. What goes along is the
    function's code, and of what it refers to: values that travel, modules (imported there; ``modules`` are those
    besides the standard library), and functions of the same module. For anything else the call raises
    :class:`NotSendable`. Arguments and results are those of :meth:`Plugin.call`, and so is what is raised.
    """
    if limits is None:
        limits = Limits(memory=memory, timeout=timeout, cpu_time=cpu_time)
    chosen, allowed = limits.filled(), tuple(modules)

    def decorate(decorated: Callable[..., Any]) -> Callable[..., Any]:
        name = decorated.__name__

        @functools.wraps(decorated)
        def call(*arguments: Any, **named: Any) -> Any:
            spec = Spec(
                name,
                bundle(decorated),
                is_function=True,
                limits=chosen,
                held=Held(knows_time=True),  # the code is this program's own
                modules=allowed,
            )
            plugin = shared_runtime(allowed).plugin(spec)
            try:
                return plugin.call(name, *arguments, **named)
            finally:
                plugin.close()

        return call

    return decorate if function is None else decorate(function)
