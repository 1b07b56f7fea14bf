"""Builds a component of a handler: `python -m meshage build handler.py -o plugins/hello.wasm`."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from ._handler import PARAMETERS, STATEFUL, WSGI

COMPONENTIZE = "0.25.1"


class BuildError(Exception):
    pass


def parameters(file: Path) -> list[str]:
    """What the function with `@handler` asks for, or that there is a WSGI application: that decides for the world, before
    anything runs."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise BuildError(f"{file} cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        mine = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise BuildError(
            f"{file}:{error.lineno}: {error.msg} (as Python {mine} reads it; the component has 3.14)"
        ) from None
    for node in ast.walk(tree):
        if is_wsgi(node):
            return list(WSGI)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {
                name.id if isinstance(name, ast.Name) else getattr(name, "attr", "")
                for name in node.decorator_list
            }
            if "handler" in names:
                asked = [
                    argument.arg
                    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                ]
                for name in asked:
                    if name not in PARAMETERS:
                        known = ", ".join(PARAMETERS)
                        raise BuildError(
                            f"{file}:{node.lineno}: a handler's parameters are {known}, not {name}"
                        )
                return asked
    raise BuildError(f"{file} has no function with `@handler`, and no `wsgi` application")


def is_wsgi(node: ast.AST) -> bool:
    """A call or a decorator `wsgi`."""
    names = [node.func] if isinstance(node, ast.Call) else getattr(node, "decorator_list", [])
    return any("wsgi" in (getattr(name, "id", None), getattr(name, "attr", None)) for name in names)


def world(asked: list[str]) -> str:
    """The world of a handler: it imports what its parameters need, as that is what makes a stream stateful."""
    imports = ["logging", "http"]
    export = (
        "wasi:http/incoming-handler@0.2.9" if tuple(asked) == WSGI else "meshage:mesh/message-handler@0.1.0"
    )
    if not STATEFUL.isdisjoint(asked):
        imports += ["state", "messages"]
    elif "mesh" in asked:
        imports += ["calls"]
    lines = "".join(f"  import meshage:mesh/{name}@0.1.0;\n" for name in imports)
    return f"package meshage:python;\nworld built {{\n{lines}  export {export};\n}}\n"


def own_frames(text: str) -> str:
    """The last traceback in a text, without the frames of this package and of Python's import."""
    lines = text.split("\n\n\nCaused by:")[0].splitlines()
    starts = [at for at, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    shown: list[str] = []
    is_shown = True
    for line in lines[starts[-1] :] if starts else lines:
        if line.startswith('  File "'):
            is_shown = not any(
                hidden in line for hidden in (str(Path(__file__).parent), "_meshage_entry", "importlib")
            )
        elif not line.startswith("    "):
            is_shown = True
        if is_shown:
            shown.append(line)
    return "\n".join(shown).strip()


def build(
    file: Path, output: Path, packages: list[Path] | None = None, include: list[str] | None = None
) -> list[str]:
    """Builds it; returns warnings for the developer."""
    installed = importlib.metadata.version("componentize-py")
    if installed != COMPONENTIZE:
        raise BuildError(f"componentize-py {COMPONENTIZE} is needed, {installed} is installed")
    file = file.resolve()
    asked = parameters(file)
    me = Path(__file__).parent
    packages = [Path(sysconfig.get_path("purelib"))] if packages is None else packages
    with tempfile.TemporaryDirectory(prefix="meshage-") as temporary:
        wit = Path(temporary, "wit")
        shutil.copytree(me / "wit", wit / "deps" / "mesh")
        kind = "MessageHandler"
        if tuple(asked) == WSGI:
            kind = "IncomingHandler"
            for package in ("io", "http"):
                (wit / "deps" / package).mkdir()
                shutil.copy(me / "wit_http" / f"{package}.wit", wit / "deps" / package)
        (wit / "world.wit").write_text(world(asked))
        entry_dir = Path(temporary, "entry")
        entry_dir.mkdir()
        mounts = [entry_dir, file.parent, me.parent] + [
            p for p in packages if p.resolve() != me.parent.resolve()
        ]
        guest = [f"/{i}" for i in range(len(mounts))]
        (entry_dir / "_meshage_entry.py").write_text(
            "import sys\nsys.dont_write_bytecode = True\nfrom meshage import _prepare\n"
            f"{kind} = _prepare.prepare({file.stem!r}, {guest[1:2]!r}, {guest[2:]!r}, {include or []!r}, {asked!r})\n"
        )
        # `VIRTUAL_ENV` is an empty one: componentize-py would mount the packages of whatever `python` is on the PATH.
        empty = Path(temporary, "venv/lib/site-packages")
        empty.mkdir(parents=True)
        command = [
            sys.executable,
            "-c",
            "from componentize_py import script; script()",
            "-q",
            "-d",
            str(wit),
            "-w",
            "built",
            "componentize",
        ]
        for mount in mounts:
            command += ["-p", str(mount)]
        command += ["-o", str(Path(temporary, "out.wasm")), "_meshage_entry"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "VIRTUAL_ENV": str(Path(temporary, "venv"))},
        )
        if done.returncode:
            text = done.stderr + done.stdout
            marker = "meshage._prepare.BuildError: "
            if marker in text:
                raise BuildError(text.split(marker)[1].splitlines()[0])
            for index, mount in enumerate(mounts):
                text = text.replace(f'"/{index}/', f'"{mount}/')
            raise BuildError(
                f"the module fails when it is imported, which happens when it is built:\n{own_frames(text)}"
            )
        output.parent.mkdir(parents=True, exist_ok=True)
        # A node may look at the folder.
        beside = output.with_name(f"{output.name}.new")
        shutil.copyfile(Path(temporary, "out.wasm"), beside)
        os.replace(beside, output)
        report = entry_dir / "report.txt"
        sys.stdout.write((entry_dir / "output.txt").read_text()[:2000])
        return report.read_text().splitlines() if report.exists() else []
