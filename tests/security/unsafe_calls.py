"""Finds calls that run or fetch what a stranger wrote, in Python source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FETCHERS = {"urllib.request", "urllib3", "requests", "httpx", "aiohttp", "http.client", "ftplib", "pycurl", "websockets"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def unsafe(source: str, *, may_fetch: bool = True) -> Iterator[str]:
    """`line: what`, for each. Raises SyntaxError."""
    tree = ast.parse(source)
    names = _imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (what := _call(node, _full_name(node.func, names))):
            yield f"{node.lineno}: {what}"
        if (
            isinstance(node, ast.Attribute | ast.Name)
            and id(node) not in called
            and _unpickles(name := _full_name(node, names))
        ):
            yield f"{node.lineno}: {name} is handed on, and runs what it reads"
        if not may_fetch and isinstance(node, ast.Import | ast.ImportFrom):
            for module in _modules(node):
                if any(module == f or module.startswith(f"{f}.") for f in FETCHERS):
                    yield f"{node.lineno}: imports {module}"


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]


def _imported(tree: ast.AST) -> dict[str, str]:
    """What each name stands for: `import numpy as np` and `from pickle import load as l` too."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _unpickles(name: str) -> bool:
    module, _, function = name.rpartition(".")
    return module.split(".")[0] in UNPICKLERS and function in ("load", "loads", "Unpickler", "open")


def _call(call: ast.Call, name: str) -> str:
    """What is wrong with it; "" if nothing is."""
    module, _, function = name.rpartition(".")
    given = {k.arg: k.value for k in call.keywords}

    def literal(argument: str) -> object:
        value = given.get(argument)
        return value.value if isinstance(value, ast.Constant) else value

    copies = bool(call.args) and isinstance(call.args[0], ast.Call) and getattr(call.args[0].func, "attr", "") == "dumps"
    if copies:  # what was pickled in the same expression is nobody else's
        return ""
    if _unpickles(name):
        return f"{name} runs what it reads"
    if name == "torch.load" and literal("weights_only") is not True:
        return "torch.load without weights_only=True"
    if name == "numpy.load" and literal("allow_pickle") not in (None, False):
        return "numpy.load with allow_pickle"
    if module in ("pandas", "pandas.io.pickle") and function == "read_pickle":
        return f"{name} runs what it reads"
    if module == "yaml" and function in ("unsafe_load", "full_load", "unsafe_load_all", "full_load_all"):
        return f"{name} makes objects of any class"
    if module == "yaml" and function in ("load", "load_all"):
        loader = given.get("Loader", call.args[1] if len(call.args) > 1 else None)
        if (
            not isinstance(loader, ast.Name | ast.Attribute)
            or (loader.id if isinstance(loader, ast.Name) else loader.attr) not in SAFE_LOADERS
        ):
            return "yaml.load without SafeLoader"
    if name in (
        "eval",
        "exec",
        "builtins.eval",
        "builtins.exec",
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ):
        return f"{name} runs text"
    if module in ("subprocess", "asyncio.subprocess") and literal("shell") not in (None, False):
        return f"{name} with a shell"
    return f"{name} runs text" if name == "asyncio.create_subprocess_shell" else ""
