"""Small faults put into the kit's own functions, one at a time.

A mutant is a function whose code object has been replaced: every name that refers to the function
sees the fault, and the original comes back afterwards.
"""

from __future__ import annotations
import __future__

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import TypeGuard

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Lt: (ast.GtE,),
    ast.LtE: (ast.Gt,),
    ast.Gt: (ast.LtE,),
    ast.GtE: (ast.Lt,),
}


@dataclass(frozen=True)
class Mutant:
    """One fault: the function, what was changed, and the code with the change."""

    function: FunctionType
    change: str
    code: CodeType

    @property
    def id(self) -> str:
        module = self.function.__module__.rpartition(".")[2]
        return f"{module}.{self.function.__qualname__}: {self.change}"

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The kit with this fault."""
        original = self.function.__code__
        self.function.__code__ = self.code
        try:
            yield
        finally:
            self.function.__code__ = original


def mutants_of(module: ModuleType) -> Iterator[Mutant]:
    """All mutants of the functions and methods that ``module`` defines."""
    for function in _functions(module):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
        definition.decorator_list = []
        for change, mutated in _changes(definition):
            yield Mutant(function, change, _compiled(mutated, function))


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value).values() if isinstance(value, type) else [value]
        for member in members:
            function = member.fget if isinstance(member, property) else member
            if _is_written_here(function, module):
                yield function


def _is_written_here(function: object, module: ModuleType) -> TypeGuard[FunctionType]:
    """Whether the source is in ``module``: what dataclasses make is not; closures stay as well."""
    return (
        isinstance(function, FunctionType)
        and function.__code__.co_filename == module.__file__
        and not function.__code__.co_freevars
    )


def _compiled(definition: ast.stmt, function: FunctionType) -> CodeType:
    tree = ast.fix_missing_locations(ast.Module([definition], []))
    flags = __future__.annotations.compiler_flag
    code = compile(tree, function.__code__.co_filename, "exec", flags, dont_inherit=True)
    return next(const for const in code.co_consts if isinstance(const, CodeType))


Definition = ast.FunctionDef | ast.AsyncFunctionDef


def _changes(definition: Definition) -> Iterator[tuple[str, Definition]]:
    """Each possible change, on a copy of the function."""
    for position, node in enumerate(ast.walk(definition)):
        for kind in _kinds(node):
            mutated = copy.deepcopy(definition)
            target = list(ast.walk(mutated))[position]
            _apply(kind, target)
            yield f"{kind} in `{_shown(node)}`", mutated


def _shown(node: ast.AST) -> str:
    """The location of a change in words, without line numbers, which move."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    shown = node.test if isinstance(node, ast.If | ast.While) else node
    return ast.unparse(shown).splitlines()[0]


def _kinds(node: ast.AST) -> list[str]:
    kinds = []
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        kinds.append("comparison turned")
        if isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            kinds.append("bound moved")
    if isinstance(node, ast.BoolOp):
        kinds.append("and/or exchanged")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        kinds.append("not removed")
    if isinstance(node, ast.If):
        kinds += ["condition always true", "condition never true"]
    if _swappable(node):
        kinds.append("precedence exchanged")
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):
        kinds.append("yield removed")
    return kinds


def _bodies(node: ast.AST) -> list[list[ast.stmt]]:
    return [body for name in ("body", "orelse") if (body := getattr(node, name, None))]


def _yields(statement: ast.AST) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(statement))


def _swappable(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
        return False
    return any(sum(map(_yields, body)) > 1 for body in _bodies(node))


_BOUNDS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}


def _apply(kind: str, node: ast.AST) -> None:
    if isinstance(node, ast.Compare):
        table = _BOUNDS if kind == "bound moved" else {k: v[0] for k, v in _COMPARISONS.items()}
        node.ops[0] = table[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Expr):
        _drop_yield(node)
    elif kind == "precedence exchanged":
        _exchange(node)
    elif isinstance(node, ast.If):
        node.test = ast.Constant(kind == "condition always true")


def _drop_yield(node: ast.Expr) -> None:
    """Keep the function a generator, and send nothing."""
    node.value = ast.IfExp(ast.Constant(False), ast.Yield(None), ast.Constant(None))


def _exchange(node: ast.AST) -> None:
    for body in _bodies(node):
        positions = [position for position, statement in enumerate(body) if _yields(statement)]
        if len(positions) > 1:
            first, second = positions[-2:]
            body[first], body[second] = body[second], body[first]
            return
