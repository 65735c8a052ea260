"""The ways in which our code relies on vLLM, each with a check against a release's sources."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.contract.signatures import Signature, signature_of
from tests.contract.sources import Definition, Sources, members


@dataclass(frozen=True)
class Finding:
    """What a release has of one thing that we rely on.

    seen: its signature, to compare releases.
    code: its source, to compare releases.
    """

    is_there: bool
    problems: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Relied:
    """One thing that we rely on.

    symbol: `package.module:Name.member`.
    where: the place in our code, as a name or as path and line.
    """

    symbol: str
    where: str = ""

    def find(self, sources: Sources) -> Finding:
        """Looks it up in a release."""
        found = sources.find(self.symbol)
        if found is None:
            return Finding(is_there=False, problems=(self._moved(sources),))
        signature = signature_of(sources, found)
        problems = tuple(self.problems(sources, found, signature))
        if found.function is not None:
            return Finding(True, problems, signature.parts() if signature else (), ast.dump(found.function))
        return Finding(True, problems, self.seen(found, signature))

    def seen(self, found: Definition, signature: Signature | None) -> tuple[str, ...]:
        """What to compare between releases if it is not a function."""
        return ()

    def _moved(self, sources: Sources) -> str:
        name = self.symbol.rpartition(":")[2] or self.symbol
        places = [] if "." in name else sources.elsewhere(name)
        return f"is now in {', '.join(places)}" if places else "is not there"

    @abstractmethod
    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """Why our code does not work with it. Empty if it does."""


@dataclass(frozen=True)
class Exists(Relied):
    """A module or a name that we import or read."""

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """No problems, because it exists."""
        return ()


@dataclass(frozen=True)
class Calls(Relied):
    """A function, method or class that we call.

    None in `positional` stands for a value without a declared meaning.
    """

    positional: tuple[str | None, ...] = ()
    keywords: tuple[str, ...] = ()
    complete: bool = True
    awaited: bool = False

    def seen(self, found: Definition, signature: Signature | None) -> tuple[str, ...]:
        """The parameters that are required or that we pass."""
        given = {*self.positional, *self.keywords}
        shown = [p for p in signature.parameters if p.default is None or p.name in given] if signature else []
        return Signature(tuple(shown)).parts()

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """Why the call does not fit."""
        if signature is None:
            # The source does not show the signature of what an assignment creates.
            return () if isinstance(found.node, ast.Assign | ast.AnnAssign) else ("cannot be called",)
        problems = signature.problems(self.positional, self.keywords, self.complete)
        if found.function is not None and self.awaited and not signature.is_async:
            problems.append("is not async")
        return problems


@dataclass(frozen=True)
class Overrides(Relied):
    """A method of a vLLM class that our class overrides, with our signature."""

    ours: Signature = field(default_factory=lambda: Signature(()))

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """Why our method can no longer replace it."""
        return ("is not a method",) if signature is None else signature.override_problems(self.ours)


@dataclass(frozen=True)
class Has(Relied):
    """Attributes, fields or methods of a class that we read.

    exactly: our code is only correct if it knows all attributes, so others are a problem.
    ignored: further attributes that are no problem.
    """

    names: tuple[str, ...] = ()
    exactly: bool = False
    ignored: tuple[str, ...] = ()

    def seen(self, found: Definition, signature: Signature | None) -> tuple[str, ...]:
        """All attributes if our code must know them all."""
        return tuple(sorted(_public(found))) if self.exactly else ()

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """The attributes that are missing or new."""
        if found.cls is None:
            return ("is not a class",)
        problems = [f"has no {name!r}" for name in self.names if sources.member(found, name) is None]
        if self.exactly:
            new = _public(found) - {*self.names, *self.ignored}
            problems += [f"has a new {name!r}" for name in sorted(new)]
        return problems


@dataclass(frozen=True)
class Takes(Relied):
    """A function whose argument only the annotation describes.

    known: the types that we can pass.
    """

    parameter: str = ""
    known: tuple[str, ...] = ()

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """The type that it takes if we cannot pass it."""
        types = {p.name: p.annotation for p in signature.parameters} if signature else {}
        taken = types.get(self.parameter)
        return () if taken in self.known else (f"takes {taken} as {self.parameter!r}",)


@dataclass(frozen=True)
class Says(Relied):
    """Texts in a module, whole or in part, with `{}` for inserted values.

    `symbol` is the module.
    """

    texts: tuple[str, ...] = ()

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """The texts that are gone."""
        there = found.module.texts
        return [f"does not say {text!r}" for text in self.texts if not any(text in other for other in there)]


@dataclass(frozen=True)
class Does(Relied):
    """Statements of a module that a patch of ours relies on, as `ast.unparse` prints them."""

    statements: tuple[str, ...] = ()

    def problems(self, sources: Sources, found: Definition, signature: Signature | None) -> Sequence[str]:
        """The statements that are gone."""
        code = ast.unparse(found.node or found.module.tree)
        return [f"does not do `{text}`" for text in self.statements if text not in code]


def _public(found: Definition) -> set[str]:
    """The names of public attributes that hold data."""
    assert found.cls is not None
    return {
        name
        for name, node in members(found.cls).items()
        if not name.startswith("_") and isinstance(node, ast.Assign | ast.AnnAssign)
    }
