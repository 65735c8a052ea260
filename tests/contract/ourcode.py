"""Derives from the server's source how it relies on vLLM.

It finds imports, calls, overridden methods and names.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.contract.relying import Calls, Exists, Overrides, Relied, Says
from tests.contract.signatures import of_function
from tests.contract.sources import Function, Sources, targets_of

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server" / "src" / "qwen_server"
_VARIABLE = re.compile(r"VLLM_[A-Z0-9_]+")
# Variables that vLLM's processes set for each other, not in `vllm.envs`.
_INNER_VARIABLES = {"VLLM_OMP_NUM_THREADS_SET_BY_VLLM": "vllm.utils.torch_utils"}
_MODULE = re.compile(r"vllm(\.[a-z0-9_]+)+")
# Names of Python's own, and those that pydantic adds to every model.
_NOT_VLLMS = re.compile(r"__\w+__|model_[a-z_]+")


@dataclass(frozen=True)
class File:
    """One of our files, and the symbols of vLLM that its names refer to."""

    path: Path
    tree: ast.Module
    imports: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> File:
        """Parses a file."""
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        return cls(path, tree, {name: symbol for _, name, symbol in _imports(tree)})

    def at(self, node: ast.AST) -> str:
        """`path:line`, relative to the repository's root."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"

    def symbol(self, node: ast.AST) -> str | None:
        """The symbol that an expression like `AsyncLLM.from_engine_args` refers to in vLLM.

        None if it is not vLLM's.
        """
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return None
        own = [name for name in names if not _NOT_VLLMS.fullmatch(name)]
        if own != names:
            return None
        return ".".join([self.imports[node.id], *names])


@functools.cache
def _all() -> list[File]:
    """Our files, the engine's first."""
    paths = sorted(SERVER.rglob("*.py"), key=lambda path: ("engine" not in path.parts, path))
    return [File.read(path) for path in paths]


@functools.cache
def _places() -> dict[str, str]:
    """The place where each class, function, `Class.method` and constant is defined.

    Of equal names, the first one counts.
    """
    found: dict[str, str] = {}
    for file in _all():
        for name, node in _definitions(file.tree):
            found.setdefault(name, file.at(node))
    return found


def derived(sources: Sources, optional: frozenset[str]) -> Iterator[Relied]:
    """Yields everything that our source relies on. `sources` shows which methods are overrides.

    A public method of our subclass of a vLLM class must override a method of vLLM. The exceptions
    are in `optional`: only some releases have these methods.
    """
    for file in _all():
        yield from _imported(file)
        yield from _names(file)
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Call) and (symbol := file.symbol(node.func)):
                yield _call(symbol, node, file.at(node))
            elif isinstance(node, ast.Attribute) and (symbol := file.symbol(node)):
                yield Exists(symbol, file.at(node))
            elif isinstance(node, ast.ClassDef):
                for base in filter(None, map(file.symbol, node.bases)):
                    yield from _overridden(sources, file, node, base, optional)


def _imports(tree: ast.Module) -> Iterator[tuple[ast.ImportFrom, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and re.match(r"vllm\b", node.module):
            yield from ((node, alias.asname or alias.name, f"{node.module}:{alias.name}") for alias in node.names)


def _imported(file: File) -> Iterator[Relied]:
    for node, _, symbol in _imports(file.tree):
        yield Exists(symbol, file.at(node))


def _names(file: File) -> Iterator[Relied]:
    """Modules and environment variables that are strings in our code."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _VARIABLE.fullmatch(node.value):
                module = _INNER_VARIABLES.get(node.value, "vllm.envs")
                yield Says(module, file.at(node), (node.value,))
            elif _MODULE.fullmatch(node.value):
                yield Exists(node.value, file.at(node))


def _call(symbol: str, node: ast.Call, where: str) -> Calls:
    spread = any(isinstance(argument, ast.Starred) for argument in node.args)
    positional = tuple(None for argument in node.args if not isinstance(argument, ast.Starred))
    keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None)
    spread = spread or len(keywords) < len(node.keywords)
    return Calls(symbol, where, positional, keywords, complete=not spread)


def _overridden(
    sources: Sources, file: File, node: ast.ClassDef, base: str, optional: frozenset[str]
) -> Iterator[Relied]:
    found = sources.find(base)
    foreign = found is not None and sources.has_foreign_base(found)
    for statement in node.body:
        if isinstance(statement, Function):
            symbol = f"{base}.{statement.name}"
            if symbol in optional and sources.find(symbol) is None:
                continue
            is_vllms = found is not None and sources.member(found, statement.name) is not None
            if is_vllms or not (foreign or statement.name.startswith("_")):
                yield Overrides(symbol, file.at(statement), of_function(statement, is_method=True))
            yield from _super_calls(file, statement, base)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and foreign:
            # A field of a model that we redeclare with our own type.
            yield Exists(f"{base}.{statement.target.id}", file.at(statement))


def _super_calls(file: File, method: ast.AST, base: str) -> Iterator[Relied]:
    for node in ast.walk(method):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of = node.func.value
            if isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super":
                yield _call(f"{base}.{node.func.attr}", node, file.at(node))


def place(name: str) -> str:
    """The `path:line` of a class, a function, `Class.method` or a constant of the server.

    `name` may also be the path of a file that is not Python. Raises LookupError.
    """
    if "/" in name:
        if not (ROOT / name).is_file():
            raise LookupError(f"there is no file {name}")
        return name
    if name not in _places():
        raise LookupError(f"nothing of ours is called {name}")
    return _places()[name]


def _definitions(parent: ast.AST, of: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Function | ast.ClassDef):
            yield f"{of}{node.name}", node
            yield from _definitions(node, f"{node.name}." if isinstance(node, ast.ClassDef) else of)
        elif not isinstance(node, ast.expr):
            yield from ((f"{of}{target.id}", node) for target in targets_of(node) if isinstance(target, ast.Name))
            yield from _definitions(node, of)


def placed(relied: Relied) -> Relied:
    """Returns it with `where` as a path and a line."""
    return replace(relied, where=place(relied.where))
