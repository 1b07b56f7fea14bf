"""An asyncio loop of a guest: timers and answers of `meshage.http` are what can be waited for."""

from __future__ import annotations

import asyncio
import time
from asyncio import base_events, events
from typing import Any

from . import http


class _Clock:
    """What `BaseEventLoop` takes for a selector. `time.sleep` ends up in `wasi:io/poll`, so the host runs
    other guests meanwhile, and a deadline ends it."""

    def select(self, timeout: float | None) -> list[Any]:
        if http.is_waiting():
            http.receive(timeout)
        elif timeout is None:
            raise RuntimeError("the handler waits for something that nothing will ever wake up")
        elif timeout > 0:
            time.sleep(timeout)
        return []


class GuestLoop(base_events.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._selector = _Clock()

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    # There are no threads: at once.
    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            future.set_exception(error)
        return future


def install() -> None:
    """`asyncio.run` makes such a loop, too (the one of Unix wants a socket pair)."""
    events.new_event_loop = asyncio.new_event_loop = GuestLoop


def run(awaitable: Any) -> Any:
    async def main() -> Any:
        return await awaitable

    with asyncio.Runner(loop_factory=GuestLoop) as runner:  # `asyncio.run` takes no factory before 3.12
        return runner.run(main())
