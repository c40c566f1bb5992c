"""Runs the blocks that come as JSON on the standard input, in one namespace; prints what each of them printed."""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import sys
import types
import warnings


def main() -> None:
    blocks = json.load(sys.stdin)
    warnings.simplefilter("error")
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    results = []
    for block in blocks:
        source = "\n" * (block["line"] - 1) + block["text"]  # so that tracebacks tell the line of the page
        linecache.cache[block["name"]] = len(source), None, source.splitlines(keepends=True), block["name"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, block["name"], "exec"), module.__dict__)
        results.append((block["name"], printed.getvalue()))
    for result in results:
        print(json.dumps(result))


main()
