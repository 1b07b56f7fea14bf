"""What a source names: the modules it imports, wherever, and the calls in it that cannot work in a component."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys

NATIVE = (".so", ".pyd", ".dylib")
# Modules of the standard library that need what a component has not.
ABSENT = {
    "ssl": "there are no sockets",
    "ctypes": "there is no native code",
    "multiprocessing": "there are no processes",
    "curses": "there is no terminal",
    "tkinter": "there is no screen",
    "readline": "there is no terminal",
    "fcntl": "there are no files",
    "mmap": "there are no files",
    "resource": "the host has the limits",
    "termios": "there is no terminal",
    "pwd": "there are no users",
    "grp": "there are no users",
    "bz2": "this build of Python has zlib alone",
    "lzma": "this build of Python has zlib alone",
}
# What cannot work although it imports: calls, by their full name. A prefix that ends with "." is all in it.
CALLS = {
    "threading.Thread": "there are no threads",
    "concurrent.futures.ThreadPoolExecutor": "there are no threads",
    "concurrent.futures.ProcessPoolExecutor": "there are no processes",
    "subprocess.": "there are no processes",
    "os.system": "there are no processes",
    "os.fork": "there are no processes",
    "multiprocessing.": "there are no processes",
    "socket.socket": "there are no sockets",
    "socket.create_connection": "there are no sockets",
    "urllib.request.urlopen": "there are no sockets; `meshage.http` sends requests",
    "http.client.HTTPConnection": "there are no sockets; `meshage.http` sends requests",
    "http.client.HTTPSConnection": "there are no sockets; `meshage.http` sends requests",
    "asyncio.open_connection": "there are no sockets",
    "asyncio.create_subprocess_exec": "there are no processes",
    "asyncio.create_subprocess_shell": "there are no processes",
    "open": "there are no files when it runs; read them while the module is imported",
    "input": "there is no terminal",
}


class Found:
    """What was found in a source: modules, each with its file, its line and whether it may be missing; and warnings."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, int, bool]] = {}
        self.problems: list[str] = []


class Walk(ast.NodeVisitor):
    """The modules that a source names, wherever, and the calls in it that cannot work."""

    def __init__(self, module: str, is_package: bool, file: str, found: Found):
        self.package = module if is_package else module.rpartition(".")[0]
        self.file, self.found = file, found
        self.aliases: dict[str, str] = {}
        self.optional = 0

    def add(self, name: str, node: ast.AST) -> None:
        self.found.names.setdefault(name, (self.file, node.lineno, self.optional > 0))  # type: ignore[attr-defined]

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        if (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
            isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
        ):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        caught = ast.unparse(ast.Tuple([h.type for h in node.handlers if h.type], ast.Load()))
        optional = any(n in caught for n in ("ImportError", "ModuleNotFoundError", "Exception")) or any(
            h.type is None for h in node.handlers
        )
        self.optional += optional
        for child in node.body:
            self.visit(child)
        self.optional -= optional
        for other in [*node.handlers, *node.orelse, *node.finalbody]:
            self.visit(other)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node)
            self.aliases[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            base = importlib.util.resolve_name("." * node.level + base, self.package)
        self.add(base, node)
        for alias in node.names:
            if alias.name != "*":
                self.aliases[alias.asname or alias.name] = f"{base}.{alias.name}"
                if is_module(f"{base}.{alias.name}"):
                    self.add(f"{base}.{alias.name}", node)

    def visit_Call(self, node: ast.Call) -> None:
        name = dotted(node.func)
        if name == "importlib.import_module" or name == "__import__":
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                self.add(node.args[0].value, node)
        if name:
            head, _, rest = name.partition(".")
            full = self.aliases.get(head, head) + ("." + rest if rest else "")
            for bad, why in CALLS.items():
                if full == bad or (bad.endswith(".") and full.startswith(bad)):
                    self.found.problems.append(
                        f"{self.file}:{node.lineno}: `{full}` does not work in a component: {why}"
                    )
        self.generic_visit(node)


def dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return None


def spec_of(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def is_module(name: str) -> bool:
    parent = name.rpartition(".")[0]
    module = sys.modules.get(parent)
    if module is not None and not hasattr(module, "__path__"):
        return False
    return spec_of(name) is not None


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def native_files(folder: str) -> list[str]:
    return [os.path.join(at, f) for at, _, files in os.walk(folder) for f in files if f.endswith(NATIVE)]


def why_missing(name: str, packages: list[str]) -> str:
    top = name.partition(".")[0]
    if why := ABSENT.get(top.removeprefix("_")):
        return f"`{top.removeprefix('_')}` does not exist in a component: {why}"
    for folder in packages:
        files = native_files(os.path.join(folder, top))
        files += [
            f
            for f in (os.listdir(folder) if os.path.isdir(folder) else [])
            if f.startswith(top + ".") and f.endswith(NATIVE)
        ]
        if files:
            return f"`{top}` has native code ({os.path.basename(files[0])}), which cannot run in a component; only pure Python packages can"
    return f"there is no module `{name}`"
