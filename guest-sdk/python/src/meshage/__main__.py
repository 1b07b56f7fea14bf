"""`python -m meshage build|dev`."""

import argparse
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m meshage")
    commands = parser.add_subparsers(dest="command", required=True)
    b = commands.add_parser("build", help="build a component of a handler")
    b.add_argument("file", type=Path, nargs="?", default="handler.py", help="default: handler.py")
    b.add_argument("-o", "--out", type=Path, help="default: plugins/STREAM.wasm")
    b.add_argument(
        "--packages",
        type=Path,
        action="append",
        help="a directory with installed packages; default: those of this Python",
    )
    b.add_argument("--include", action="append", default=[], help="a module to import besides")
    d = commands.add_parser(
        "dev", help="serve handlers as plain Python, and load them again when they change"
    )
    d.add_argument("files", type=Path, nargs="*", help="default: handler.py")
    d.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    if arguments.command == "build":
        from .build import BuildError, build
        from .dev import stream_of

        output = arguments.out or Path("plugins", f"{stream_of(arguments.file)}.wasm")
        started = time.monotonic()
        try:
            notes = build(arguments.file, output, arguments.packages, arguments.include)
        except BuildError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        for note in notes:
            print(f"warning: {note}", file=sys.stderr)
        print(f"{output}: {output.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
        return 0
    from .dev import serve

    return serve(arguments.files or [Path("handler.py")], arguments.port)


sys.exit(main())
