"""A release of vLLM as source text.

It finds what the modules define, without installing or importing them.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
_PLACEHOLDER = "{}"
# Bases that add no attributes to a class.
_NO_ATTRIBUTES = re.compile(r"^(ABC|Exception|Generic\b.*|Protocol|object)$")


@dataclass(frozen=True)
class Definition:
    """The definition of a name in `module`.

    node: None for a whole module.
    """

    module: Module
    node: ast.AST | None = None

    @property
    def function(self) -> Function | None:
        """The definition if it is a function or a method."""
        return self.node if isinstance(self.node, Function) else None

    @property
    def cls(self) -> ast.ClassDef | None:
        """The definition if it is a class."""
        return self.node if isinstance(self.node, ast.ClassDef) else None


@dataclass
class Module:
    """One file. `names` are those of its top level, including the branches of `if` and `try`."""

    name: str
    path: Path
    tree: ast.Module
    names: dict[str, ast.AST] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, path: Path) -> Module:
        """Parses a file."""
        module = cls(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
        module.names = dict(_defined(module.tree.body))
        return module

    @functools.cached_property
    def texts(self) -> frozenset[str]:
        """The texts in the module, with `{}` for inserted values."""
        return frozenset(_texts(self.tree))

    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


class Sources:
    """The modules below `root`, the folder that contains `vllm/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        """A module of vLLM by its dotted name; None if there is none."""
        if name not in self._modules:
            self._modules[name] = self._read(name) if name.partition(".")[0] == "vllm" else None
        return self._modules[name]

    def _read(self, name: str) -> Module | None:
        base = self.root.joinpath(*name.split("."))
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return Module.read(name, path)
        return None

    def find(self, symbol: str) -> Definition | None:
        """Finds `package.module:Name.member`, also through imports and base classes."""
        module_name, _, names = symbol.partition(":")
        module = self.module(module_name)
        found = Definition(module) if module else None
        for name in filter(None, names.split(".")):
            found = self._inside(found, name) if found else None
        return found

    def _inside(self, found: Definition, name: str) -> Definition | None:
        if found.node is None:
            return self._in_module(found.module, name)
        if found.cls is not None:
            return self.member(found, name)
        if isinstance(found.node, ast.AnnAssign):
            cls = self._evaluate(found.module, found.node.annotation)
            return self.member(cls, name) if cls else None
        return None

    def _in_module(self, module: Module, name: str) -> Definition | None:
        node = module.names.get(name)
        if isinstance(node, ast.ImportFrom):
            return self._imported(module, node, name)
        if isinstance(node, ast.Import):
            return None
        if node is not None:
            return Definition(module, node)
        if submodule := self.module(f"{module.name}.{name}"):
            return Definition(submodule)
        if "__getattr__" in module.names and name in module.texts:
            return Definition(module, module.names["__getattr__"])
        return None

    def _imported(self, module: Module, node: ast.ImportFrom, name: str) -> Definition | None:
        source = node.module or ""
        if node.level:
            base = module.package().split(".")
            source = ".".join([*base[: len(base) - node.level + 1], *filter(None, [source])])
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        origin = self.module(source)
        if origin is None or (origin is module and original == name):
            return None
        return self._in_module(origin, original)

    def member(self, cls: Definition, name: str) -> Definition | None:
        """Finds a method or attribute of the class or its bases, also one that is set on `self`."""
        for ancestor in self.ancestors(cls):
            if ancestor.cls is not None and (node := members(ancestor.cls).get(name)) is not None:
                return Definition(ancestor.module, node)
        return None

    def ancestors(self, cls: Definition) -> Iterator[Definition]:
        """The class and its bases within vLLM, nearest first."""
        yield cls
        if cls.cls is not None:
            for base in cls.cls.bases:
                found = self._evaluate(cls.module, base)
                if found is not None and found.cls is not None:
                    yield from self.ancestors(found)

    def has_foreign_base(self, cls: Definition) -> bool:
        """Whether a base outside of vLLM, such as pydantic's, adds attributes to the class."""
        return any(
            self._evaluate(ancestor.module, base) is None and not _NO_ATTRIBUTES.search(ast.unparse(base))
            for ancestor in self.ancestors(cls)
            if ancestor.cls is not None
            for base in ancestor.cls.bases
        )

    def _evaluate(self, module: Module, node: ast.expr) -> Definition | None:
        """The class that an annotation or a base refers to."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.Subscript):
            node = node.value
        return self._in_module(module, node.id) if isinstance(node, ast.Name) else None

    def elsewhere(self, name: str) -> list[str]:
        """The modules that define a class or a function of this name."""
        definition = re.compile(rf"^(class|def|async def) {re.escape(name)}\b", re.MULTILINE)
        return [
            ".".join(path.relative_to(self.root).with_suffix("").parts)
            for path in sorted(self.root.joinpath("vllm").rglob("*.py"))
            if definition.search(path.read_text(encoding="utf-8"))
        ]


@functools.cache
def members(cls: ast.ClassDef) -> dict[str, ast.AST]:
    """The names that the class body defines or its methods set on `self`, with their nodes."""
    found = dict(_defined(cls.body))
    for node in ast.walk(cls):
        for target in targets_of(node):
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                found.setdefault(target.attr, node)
    return found


def targets_of(node: ast.AST) -> list[ast.expr]:
    """The targets of an assignment."""
    if isinstance(node, ast.Assign):
        nested = [target.elts if isinstance(target, ast.Tuple) else [target] for target in node.targets]
        return [target for group in nested for target in group]
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _defined(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """The names and their definitions. The last definition counts, as in Python."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.If):
            yield from _defined(node.orelse)
            yield from _defined(node.body)
        elif isinstance(node, ast.Try):
            yield from _defined([statement for handler in node.handlers for statement in handler.body])
            yield from _defined(node.body)
        for target in targets_of(node):
            if isinstance(target, ast.Name):
                yield target.id, node


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else _PLACEHOLDER for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        yield from _texts(node)
