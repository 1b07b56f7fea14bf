"""Modules in memory, as compressed source: a component has no file system when it runs."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import sys
import zlib
from collections.abc import Callable
from functools import partial
from importlib.resources.abc import Traversable, TraversableResources
from typing import Any

from ._imports import ABSENT, NATIVE, read

# Left out of the standard library in memory: tools, tests, and what has no use in a component.
LEFT_OUT = (
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "turtle",
    "ensurepip",
    "lib2to3",
    "pydoc_data",
    "_pyrepl",
    "venv",
    "unittest",
    "multiprocessing",
    "curses",
    "ctypes",
    "pydoc",
    "pdb",
    "doctest",
    "site-packages",
    "dbm",
    "this",
    "antigravity",
    "__phello__",
    "_sysconfigdata__wasi_wasm32-wasi",
    "sysconfig",
    "xmlrpc",
    "ftplib",
    "imaplib",
    "smtplib",
    "poplib",
    "mailbox",
    "wsgiref",
)


class MemoryLoader(importlib.abc.InspectLoader):
    """Loads a module from its compressed source."""

    def __init__(self, path: str, is_package: bool, data: bytes):
        self.path, self.package, self.data = path, is_package, data

    def is_package(self, fullname: str) -> bool:
        return self.package

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(zlib.decompress(self.data))

    def get_data(self, path: str) -> bytes:  # `pkgutil.get_data`
        return FILES[path]()

    def get_resource_reader(self, fullname: str) -> Any:
        return Reader(os.path.dirname(self.path), FILES)


class MemoryFinder:
    def __init__(self) -> None:
        self.loaders: dict[str, MemoryLoader] = {}
        self.running = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        loader = self.loaders.get(name) if self.running else None
        if loader is not None:
            spec = importlib.machinery.ModuleSpec(name, loader, origin=loader.path, is_package=loader.package)
            spec.has_location = True
            if loader.package:
                spec.submodule_search_locations = [os.path.dirname(loader.path)]
            return spec
        return None


class LastFinder:
    """Says why a module is missing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not FINDER.running:
            return None
        top = name.partition(".")[0]
        why = (
            ABSENT.get(top.removeprefix("_"))
            or "it was not there when the component was built; name it in an import statement, or with --include"
        )
        raise ModuleNotFoundError(f"no module named {name!r} in this component: {why}", name=name)


FINDER = MemoryFinder()
FILES: dict[str, Callable[[], bytes]] = {}


def add_tree(folder: str, prefix: str, left_out: tuple[str, ...] = (), data_files: bool = False) -> None:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        name = entry.name.removesuffix(".py")
        if (
            entry.name == "__pycache__"
            or (not prefix and name in left_out)
            or entry.name.endswith(".dist-info")
        ):
            continue
        if entry.is_dir():
            if os.path.exists(os.path.join(entry.path, "__init__.py")) or data_files:
                add_tree(entry.path, f"{prefix}{name}.", left_out, data_files)
        elif entry.name.endswith(".py"):
            is_package = entry.name == "__init__.py"
            module = prefix.removesuffix(".") if is_package else prefix + name
            if module and module not in sys.modules:
                FINDER.loaders[module] = MemoryLoader(
                    entry.path, is_package, zlib.compress(read(entry.path), 9)
                )
        elif data_files and not entry.name.endswith(NATIVE):
            packed = zlib.compress(read(entry.path), 9)
            FILES[entry.path] = partial(zlib.decompress, packed)


class Entry(Traversable):
    def __init__(self, path: str, files: dict[str, Any]):
        self.path, self.files = path, files

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def is_file(self) -> bool:
        return self.path in self.files

    def is_dir(self) -> bool:
        return any(f.startswith(self.path + "/") for f in self.files)

    def iterdir(self) -> Any:
        start = len(self.path) + 1
        names = {f[start:].partition("/")[0] for f in self.files if f.startswith(self.path + "/")}
        return (Entry(f"{self.path}/{n}", self.files) for n in sorted(names))

    def joinpath(self, *descendants: Any) -> Entry:
        return Entry("/".join([self.path, *(str(part).strip("/") for part in descendants)]), self.files)

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            return bytes(file.read())

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        try:
            data = io.BytesIO(self.files[self.path]())
        except KeyError:
            raise FileNotFoundError(self.path) from None
        return data if "b" in mode else io.TextIOWrapper(data, *args, **kwargs)


class Reader(TraversableResources):
    def __init__(self, folder: str, files: dict[str, Any]):
        self.folder, self.all = folder, files

    def files(self) -> Entry:
        return Entry(self.folder, self.all)
