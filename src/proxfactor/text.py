"""The text form: the same expression in Python, on the command line, in a run folder and in the report.

``"nonneg + l1(0.1)"`` is read by walking a syntax tree that admits calls of the catalogue, ``+``, plain literals and
``$name`` for a tensor; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

_TENSOR = "_tensor_"
_LONGEST = 10_000
_DOLLAR = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\$([A-Za-z_]\w*)")  # a string is stepped over


class Spelled:
    """An object that can be written as an expression and read back: operators, losses, solvers.

    A subclass that is a dataclass needs nothing more than an ``alias``, one short second name (or none); what only other
    operators make is not ``listed``.

    >>> from proxfactor import Prox
    >>> Prox.parse("nonneg + l1(0.1)")
    NonNegative() + L1(0.1)
    """

    alias: ClassVar[str] = ""
    listed: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str, tensors: dict[str, Any] | None = None) -> Self:
        """The object that ``text`` spells; ``$name`` is looked up in ``tensors``. Raises ValueError with the nearest names."""
        return _Reader(cls, text, tensors or {}).read()

    @classmethod
    def catalogue(cls) -> list[type[Self]]:
        """Every class below this one that has a text form, in the order of definition."""
        below = [c for sub in cls.__subclasses__() for c in [sub, *sub.catalogue()]]
        return [c for c in dict.fromkeys(below) if c.listed and not inspect.isabstract(c) and not c.__name__.startswith("_")]

    def spell(self) -> tuple[str, dict[str, Tensor]]:
        """The expression and the tensors that its ``$names`` stand for: ``parse(*spell())`` gives the same object."""
        tensors: dict[str, Tensor] = {}
        return self._write(tensors), tensors

    def _write(self, tensors: dict[str, Tensor]) -> str:
        words: list[str] = []
        named: bool = False
        for place, field in enumerate(getattr(self, "__dataclass_fields__", {}).values()):
            value = getattr(self, field.name)
            if (place > 0 or field.kw_only) and not isinstance(value, Tensor) and value == field.default:
                named = True
                continue
            named = named or bool(field.kw_only) or field.name == "dim"
            word = _literal(value, field.name, tensors)
            words.append(f"{field.name}={word}" if named else word)
        return f"{type(self).__name__}({', '.join(words)})"

    def __repr__(self) -> str:
        return self.spell()[0]


def _literal(value: Any, name: str, tensors: dict[str, Tensor]) -> str:
    if isinstance(value, Tensor):
        while name in tensors:
            name += "_"
        tensors[name] = value
        return f"${name}"
    if isinstance(value, Spelled):
        return value._write(tensors)
    if isinstance(value, float):  # float() for the NumPy number, which is one and writes its type
        return repr(float(value)).removesuffix(".0")
    return repr(value)


class _Reader:
    def __init__(self, base: type, text: str, tensors: dict[str, Any]):
        self.base, self.text, self.tensors = base, text, tensors
        self.kind = base.__name__.lower()

    def read(self) -> Any:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"an empty text names no {self.kind}; known: {self._known()}")
        if len(self.text) > _LONGEST:
            raise ValueError(f"a {self.kind} of {len(self.text)} characters; at most {_LONGEST} are read")
        marked = _DOLLAR.sub(lambda m: _TENSOR + m[1] if m[1] else m[0], self.text)
        try:
            tree = ast.parse(marked.strip(), mode="eval").body
        except (SyntaxError, RecursionError, MemoryError, ValueError):
            raise self._error("is not an expression") from None
        try:
            found = self._instance(self._node(tree))
        except RecursionError:
            raise self._error("is nested too deeply") from None
        if not isinstance(found, self.base):
            raise self._error(f"is not a {self.kind}")
        return found

    def _error(self, what: str) -> ValueError:
        example = {"prox": "'nonneg + l1(0.1)'", "loss": "'kl'", "solver": "'hals(inner=3)'"}.get(self.kind, "Name(1.0)")
        return ValueError(f"{self._shown()} {what}; write something like {example}")

    def _shown(self) -> str:
        return repr(self.text if len(self.text) < 200 else self.text[:200] + " …")

    def _known(self) -> str:
        names = [c.__name__ for c in self.base.catalogue()]  # type: ignore[attr-defined]
        return ", ".join(sorted(names)) if len(names) < 20 else f"the {len(names)} that `proxfactor operators` lists"

    def _class(self, name: str) -> type:
        names: dict[str, type] = {}
        for c in self.base.catalogue():  # type: ignore[attr-defined]
            names |= {c.__name__.lower(): c} | ({c.alias.lower(): c} if c.alias else {})
        if name.lower() in names:
            return names[name.lower()]
        near = [names[n].__name__ for n in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"known: {self._known()}"
        raise ValueError(f"unknown {self.kind} {name!r}; {hint}")

    def _call(self, cls: type, args: list, kwargs: dict) -> Any:
        args = [self._instance(a) for a in args]
        kwargs = {k: self._instance(v) for k, v in kwargs.items()}
        try:
            inspect.signature(cls).bind(*args, **kwargs)
        except TypeError as error:
            takes = ", ".join(str(p).split(":")[0] for p in inspect.signature(cls).parameters.values())
            raise ValueError(f"{cls.__name__} in {self._shown()}: {error}; it takes ({takes})") from None
        try:
            return cls(*args, **kwargs)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{cls.__name__} in {self._shown()}: {error}") from None

    def _instance(self, value: Any) -> Any:
        return self._call(value, [], {}) if isinstance(value, type) else value

    def _node(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                value = self._node(operand)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise self._error("puts a sign before something that is no number")
                return -value if isinstance(sign, ast.USub) else value
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                a, b = self._instance(self._node(left)), self._instance(self._node(right))
                if not isinstance(a, Spelled) or not isinstance(b, Spelled):
                    raise self._error("adds something other than operators")
                try:
                    return a + b  # type: ignore[operator]
                except TypeError:
                    raise self._error("adds what cannot be added") from None
            case ast.Name(id=name) if name.startswith(_TENSOR):
                return self._tensor(name.removeprefix(_TENSOR))
            case ast.Name(id="inf"):
                return math.inf
            case ast.Name(id=name):
                return self._class(name)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if all(k.arg for k in keywords):
                options = {k.arg: self._node(k.value) for k in keywords}
                if len(options) < len(keywords):
                    raise self._error("gives an argument twice")
                return self._call(self._class(name), [self._node(a) for a in args], options)
            case ast.Tuple(elts=items):
                return tuple(self._instance(self._node(i)) for i in items)
            case ast.List(elts=items):
                return [self._instance(self._node(i)) for i in items]
            case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
                return {self._node(k): self._instance(self._node(v)) for k, v in zip(keys, values, strict=True) if k}
        raise self._error("holds something other than names, numbers, strings, lists, calls and +")

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            have = ", ".join(f"${n}" for n in self.tensors) or "none were given; on the command line, add --tensor NAME=FILE.npy"
            raise ValueError(f"{self._shown()} asks for the tensor ${name}; given: {have}")
        return torch.as_tensor(self.tensors[name])
