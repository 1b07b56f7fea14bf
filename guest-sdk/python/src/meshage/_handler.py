"""The decorator `@handler`, and what runs one message through the function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from . import http
from ._entity import Entity, Mesh, StateValue
from ._message import Message
from ._reply import written

STATEFUL = frozenset({"state", "entity"})
PARAMETERS = ("message", "state", "entity", "mesh")
# What stands for the parameters of a WSGI application.
WSGI = ("wsgi",)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Registered:
    function: Callable[..., Any]
    parameters: tuple[str, ...]

    @property
    def is_stateful(self) -> bool:
        return not STATEFUL.isdisjoint(self.parameters)


registered: Registered | None = None


def handler(function: F) -> F:
    """Makes this function the handler of its stream. It gets what its parameters are called: `message`; `state`, the
    entity's state as JSON (`{}` at first; what it is at the end is committed); `entity`, with named values, `send`, `remind`
    and `call`; or, without state, `mesh`. `state` and `entity` make the stream stateful."""
    parameters = tuple(inspect.signature(function).parameters)
    wrong = [name for name in parameters if name not in PARAMETERS]
    if wrong:
        raise TypeError(f"a handler's parameters are {', '.join(PARAMETERS)}, not {wrong[0]}")
    register(function, parameters)
    return function


def register(function: Callable[..., Any], parameters: tuple[str, ...]) -> None:
    global registered
    if registered is not None and name_of(registered.function) != name_of(function):
        raise TypeError(f"a component has one handler, and there is {name_of(registered.function)} already")
    registered = Registered(function, parameters)


def name_of(function: Callable[..., Any]) -> str:
    """A WSGI application may be any object."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def forget() -> None:
    """Lets another function be the handler."""
    global registered
    registered = None


def run(message: Message, by: Registered) -> tuple[int, list[tuple[str, str]], bytes]:
    """Handles one message: raises a `Failure`, or whatever else the handler raises."""
    state = StateValue() if "state" in by.parameters else None
    arguments: dict[str, Any] = {"message": message}
    if state is not None:
        arguments["state"] = state.value
    if "entity" in by.parameters:
        arguments["entity"] = Entity(message.stream, message.partition_key)
    if "mesh" in by.parameters:
        arguments["mesh"] = Mesh()
    http.begin()
    result = by.function(**{name: arguments[name] for name in by.parameters})
    if inspect.isawaitable(result):
        from . import _loop

        result = _loop.run(result)
    reply = written(result)
    if state is not None:
        state.finish()
    return reply
