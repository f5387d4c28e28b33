"""The whole catalogue: importing this module fills it, and each attempt can be made by its name."""

from __future__ import annotations

from cloister.interfaces.attack import Targets, Tried
from cloister.sandbox import Policy

# Their order is that in which the attempts are made.
from . import (  # noqa: F401 - each puts its attempts into the catalogue
    calls,
    files,
    held,
    ipc,
    kernel,
    memory,
    own_layers,
    processes,
    rings,
    sockets,
)
from .attempt import CATALOGUE

__all__ = ["CATALOGUE", "make"]


def make(name: str, targets: Targets, policy: Policy | None) -> Tried:
    """Make the attempt ``name``; ``policy`` is whose filter holds this process. Raises KeyError for an unknown name."""
    calls.forget()
    try:
        CATALOGUE[name].run(targets)
    except OSError as error:
        number = error.errno or 0
        filtered = policy is not None and calls.judged_by_filter(policy, number)
        return Tried(number, calls.last_call(), filtered)
    return Tried(0, calls.last_call(), filtered=False)
