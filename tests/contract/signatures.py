"""Reads signatures from source and checks whether our use of a function fits them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from tests.contract.sources import Definition, Function, Sources


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    kind: "" for an ordinary parameter, "keyword" for a keyword-only one, or "*" or "**".
    """

    name: str
    default: str | None
    kind: str = ""
    annotation: str = ""

    def __str__(self) -> str:
        text = f"{self.kind if self.kind.startswith('*') else ''}{self.name}"
        text += f": {self.annotation}" if self.annotation else ""
        equals = " = " if self.annotation else "="
        return text if self.default is None else f"{text}{equals}{self.default}"


@dataclass(frozen=True)
class Signature:
    """The signature of a function, without `self` and `cls`."""

    parameters: tuple[Parameter, ...]
    returns: str = ""
    is_async: bool = False

    def parts(self) -> tuple[str, ...]:
        """The parts of the signature: each parameter, the return type and whether it is async."""
        shown: list[str] = []
        for parameter in self.parameters:
            if parameter.kind == "keyword" and not any(text.startswith("*") for text in shown):
                shown.append("*")
            shown.append(str(parameter))
        return (*shown, *([f"-> {self.returns}"] if self.returns else []), *(["async"] if self.is_async else []))

    def problems(self, positional: Sequence[str | None], keywords: Sequence[str], complete: bool) -> list[str]:
        """Why a call does not fit.

        None in `positional` stands for a value without a declared meaning.

        complete: the call passes nothing else, so it must include all required parameters.
        """
        found = []
        by_place = [parameter for parameter in self.parameters if parameter.kind == ""]
        names = {parameter.name for parameter in self.parameters}
        takes_more = {parameter.kind for parameter in self.parameters}
        if len(positional) > len(by_place) and "*" not in takes_more:
            found.append(f"takes {len(by_place)} values by position, we give {len(positional)}")
        for given, parameter in zip(positional, by_place, strict=False):
            if given not in (None, parameter.name):
                found.append(f"has {parameter.name!r} where we give {given!r}")
        if "**" not in takes_more:
            found += [f"has no parameter {name!r}" for name in keywords if name not in names]
        if complete:
            given_names = {parameter.name for parameter in by_place[: len(positional)]} | set(keywords)
            required = [p.name for p in self.parameters if p.default is None and not p.kind.startswith("*")]
            found += [f"requires {name!r}" for name in required if name not in given_names]
        return found

    def override_problems(self, ours: Signature) -> list[str]:
        """Why a method with our signature cannot replace this one for its callers."""
        kinds = {parameter.kind for parameter in ours.parameters}
        theirs = {parameter.name: parameter for parameter in self.parameters if not parameter.kind.startswith("*")}
        own = [parameter for parameter in ours.parameters if not parameter.kind.startswith("*")]
        found = [f"has no parameter {p.name!r}" for p in own if p.name not in theirs and p.default is None]
        if "*" not in kinds or "**" not in kinds:
            known = {parameter.name for parameter in own}
            found += [f"has a new parameter {name!r}" for name in theirs if name not in known]
        common = [parameter.name for parameter in own if parameter.kind == "" and parameter.name in theirs]
        order = [name for name in theirs if theirs[name].kind == ""][: len(common)]
        if common != order and not found:
            found.append(f"begins with {', '.join(order)}, ours with {', '.join(common)}")
        if self.is_async != ours.is_async:
            found.append("is async" if self.is_async else "is not async")
        return found


def signature_of(sources: Sources, found: Definition) -> Signature | None:
    """The signature of a function or of a class's constructor. None for anything else."""
    if found.function is not None:
        return of_function(found.function)
    if found.cls is None:
        return None
    made = sources.member(found, "__init__")
    if made is not None and made.function is not None:
        return of_function(made.function, is_method=True)
    return Signature(tuple(_fields(sources, found)))


def of_function(node: Function, is_method: bool = False) -> Signature:
    """The signature of a definition, without `self` and `cls`."""
    arguments = node.args
    ordinary = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(ordinary) - len(arguments.defaults))
    parameters = [_parameter(a, d) for a, d in zip(ordinary, [*defaults, *arguments.defaults], strict=True)]
    if parameters and (is_method or parameters[0].name in ("self", "cls")):
        parameters = parameters[1:]
    if arguments.vararg:
        parameters.append(_parameter(arguments.vararg, None, "*"))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(_parameter(argument, default, "keyword"))
    if arguments.kwarg:
        parameters.append(_parameter(arguments.kwarg, None, "**"))
    returns = ast.unparse(node.returns) if node.returns else ""
    return Signature(tuple(parameters), returns, isinstance(node, ast.AsyncFunctionDef) and not _yields(node))


def _yields(node: ast.AST) -> bool:
    """Whether it is a generator. A call of an async generator is not awaited."""
    inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, Function | ast.Lambda)]
    return any(isinstance(child, ast.Yield | ast.YieldFrom) or _yields(child) for child in inner)


def _parameter(argument: ast.arg, default: ast.expr | None, kind: str = "") -> Parameter:
    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
    return Parameter(argument.arg, None if default is None else ast.unparse(default), kind, annotation)


def _fields(sources: Sources, cls: Definition) -> list[Parameter]:
    """The annotated attributes, which dataclasses, pydantic and msgspec use as parameters."""
    found: dict[str, Parameter] = {}
    for ancestor in reversed(list(sources.ancestors(cls))):
        for node in ancestor.cls.body if ancestor.cls else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                default = None if node.value is None else ast.unparse(node.value)
                kind = "" if not sources.has_foreign_base(cls) else "keyword"
                found[node.target.id] = Parameter(node.target.id, default, kind, ast.unparse(node.annotation))
    return list(found.values())
