"""Runs in the component while it is built (CPython 3.14, with a file system), and leaves an interpreter behind that
has all modules: loaded, or in memory as compressed source. Only what is in memory exists when the component runs."""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import linecache
import logging
import os
import sys
import traceback
from typing import Any

from ._archive import FINDER, LEFT_OUT, LastFinder, add_tree
from ._imports import Found, Walk, read, spec_of, why_missing

# Imported from C, thus not to be found in any source.
HIDDEN = (
    "_strptime",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.ascii",
    "encodings.utf_8_sig",
    "encodings.utf_16",
)


class BuildError(Exception):
    """Ends a build; the text is for the developer."""


def prepare(*arguments: Any) -> type:
    """As `_prepare`, with what is printed kept in a file: componentize-py's pipe breaks after 10,000 bytes."""
    real = sys.stdout, sys.stderr
    with open(f"{entry_folder()}/output.txt", "w") as sys.stdout:
        sys.stderr = sys.stdout
        try:
            return _prepare(*arguments)
        finally:
            sys.stdout, sys.stderr = real


def _prepare(
    module: str, own: list[str], packages: list[str], include: list[str], parameters: list[str]
) -> type:
    """Imports the handler and all that it names; returns the class that componentize-py asks for."""
    sys.dont_write_bytecode = True
    # componentize-py adds site-packages of its own accord.
    sys.path[:] = ["/python", "/world", *own, *packages, "/bundled"]
    from . import _component, _handler
    from ._backend import use

    logging.basicConfig(
        level=logging.NOTSET + 1,
        handlers=[_component.LogHandler()],
        format="%(name)s: %(message)s",
        force=True,
    )
    no_sockets()
    found = Found()
    load(module, "the handler", packages)

    # The user's own modules: everything they name, anywhere, is imported now. Of others, what they import at their top level.
    walked: set[str] = set()
    queue = [module, *include]
    while queue:
        name = queue.pop()
        spec = spec_of(name)
        if name in walked or spec is None or not spec.origin:
            continue
        walked.add(name)
        if not any(spec.origin.startswith(root + "/") for root in own):
            continue
        mine = Found()
        Walk(name, bool(spec.submodule_search_locations), short(spec.origin, own), mine).visit(
            ast.parse(read(spec.origin), spec.origin)
        )
        found.problems += mine.problems
        for named, (file, line, optional) in mine.names.items():
            if optional and spec_of(named) is None:
                continue
            try:
                load(named, f"{file}:{line}", packages)
            except BuildError as error:
                if not optional:
                    raise
                found.problems.append(str(error))
            queue.append(named)
    for name in include:
        load(name, "--include", packages)
    for name in HIDDEN:
        importlib.import_module(name)

    registered = _handler.registered
    if registered is None:
        raise BuildError(f"`{module}` has no function with `@handler`, and no `wsgi` application")
    if registered.parameters != tuple(parameters):
        raise BuildError(
            "the function with `@handler` must be written in the module that is built, not made by other code"
        )
    if "asyncio" in sys.modules or inspect.iscoroutinefunction(registered.function):
        from . import _loop

        _loop.install()

    # Everything else that might be asked for at run time: compressed sources.
    add_tree("/python", "", LEFT_OUT)
    tops = {n.partition(".")[0] for n in [*sys.modules, *include]} | (
        {"tzdata"} if "zoneinfo" in sys.modules else set()
    )
    for folder in [*packages]:
        for top in sorted(tops):
            path = os.path.join(folder, top)
            if os.path.isdir(path):
                add_tree(path, f"{top}.", (), data_files=True)
    # Lines of the user's code, for tracebacks.
    for mod in list(sys.modules.values()):
        origin = getattr(getattr(mod, "__spec__", None), "origin", None) or ""
        if any(origin.startswith(root + "/") for root in own) and origin.endswith(".py"):
            lines = read(origin).decode().splitlines(True)
            linecache.cache[origin] = (sum(map(len, lines)), None, lines, origin)

    for problem in found.problems:
        report(problem)
    sys.meta_path.insert(0, FINDER)
    sys.meta_path.append(LastFinder())
    sys.path_importer_cache.clear()
    # Nothing is there when it runs: do not look.
    sys.path[:] = []
    FINDER.running = True
    use(_component.WitBackend())
    _component.built = True
    gc.collect()
    # What is there now is for good: no collection looks at it, or writes to its pages.
    gc.freeze()
    if registered.parameters == _handler.WSGI:
        from ._wsgi_component import IncomingHandler

        return IncomingHandler
    return _component.MessageHandler


def no_sockets() -> None:
    """A socket made, or a name looked up, while modules are imported would leave a handle of the build's host in libc,
    and the next use a trap. `_socket` is built in, so this costs nothing."""
    import _socket

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError("a component has no sockets")

    refusing = type("socket", (_socket.socket,), {"__slots__": (), "__init__": refuse})
    for name in ("socket", "SocketType"):
        setattr(_socket, name, refusing)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
        if hasattr(_socket, name):
            setattr(_socket, name, refuse)


def load(name: str, where: str, packages: list[str]) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        cause: BaseException | None = error
        names = []
        # The first one that failed says most.
        while cause is not None:
            names += [cause.name] if isinstance(cause, ImportError) and cause.name else []
            cause = cause.__cause__ or cause.__context__
        by = imported_by(name, error)
        raise BuildError(f"{where}: {why_missing(names[-1] if names else name, packages)}{by}") from error


def imported_by(name: str, error: ImportError) -> str:
    """Where in a package the import failed, if it did not fail in the source that names it."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    if len(frames) < 2:
        return ""
    at = frames[-2] if frames[-1].filename.startswith("/python/") else frames[-1]
    file = at.filename.split("/", 2)[2]
    return f" (`{name}` imports it, {file}:{at.lineno})"


def short(path: str, own: list[str]) -> str:
    for root in own:
        if path.startswith(root + "/"):
            return path[len(root) + 1 :]
    return path


def report(warning: str) -> None:
    """Tells the developer, once the component is built."""
    with open(f"{entry_folder()}/report.txt", "a") as file:
        file.write(f"{warning}\n")


def entry_folder() -> str:
    """The folder of the entry module, which the build reads afterwards: componentize-py has it third."""
    return os.environ["PYTHONPATH"].split(":")[2]
