"""The mutants of a module: made by cosmic-ray's operators, and put in place in memory, so that no file changes."""

from __future__ import annotations

import ast
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cosmic_ray.ast
import cosmic_ray.mutating
import cosmic_ray.plugins

#: Left out: operators that need arguments, and those that swap `is` with `==`, which are the same for the types and enum members here.
LEFT_OUT = ("VariableReplacer", "VariableInserter", "Operator_Is_Eq", "Operator_IsNot_NotEq", "Operator_Eq_Is", "Operator_NotEq_IsNot")


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    lines     the lines of the statement (of a compound one, of its head) that it changes
    reloaded  it changes what runs when the module is imported, so that the module must be imported anew
    """

    module: str
    operator: str
    occurrence: int
    line: int
    column: int
    lines: tuple[int, int]
    reloaded: bool

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line}:{self.column} {self.operator.removeprefix('core/')} {self.occurrence}"

    def source(self, original: str) -> str | None:
        """The module's text with the change; None where it is no Python any more or means the same."""
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        text = cosmic_ray.mutating.mutate_code(original, operator, self.occurrence)
        try:
            same = text is None or ast.dump(ast.parse(text)) == ast.dump(ast.parse(original))
        except SyntaxError:
            return None
        return None if same else text


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """All of them, but for those in annotations, which nothing reads while a program runs, and the bare `*` of a signature, no product."""
    tree, parsed, written = ast.parse(source), cosmic_ray.ast.get_ast(source), source.splitlines()
    annotated = [_range(node) for node in _annotations(tree)]
    nodes = list(cosmic_ray.ast.ast_nodes(parsed))
    for name in sorted(cosmic_ray.plugins.operator_names()):
        if name.endswith(LEFT_OUT):
            continue
        operator = cosmic_ray.plugins.get_operator(name)()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            bare_star = written[start[0] - 1][start[1] :].startswith("*,")
            if not bare_star and not any(first <= start < last for first, last in annotated):
                statement, inside = _statement(tree, start)
                yield Mutant(module, name, occurrence, *start, _head(statement, start[0]), not inside)


def _range(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for found in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(found, ast.AST):
                yield found


def _statement(tree: ast.Module, at: tuple[int, int]) -> tuple[ast.stmt, bool]:
    """The innermost statement at a place, and whether it stands in the body of a function (else it runs at import)."""
    found: ast.stmt = tree.body[0]
    inside, node = False, tree
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, within = todo.pop()  # type: ignore[assignment]
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                start, end = _range(child)
                decorators = [_range(d)[0] for d in getattr(child, "decorator_list", ())]
                start = min([(start[0], 0), *((line, 0) for line, _ in decorators)])
                if not start <= at < end:
                    continue
                found, inside = child, within or (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
                todo = [(child, inside)]
                break
            if isinstance(child, (ast.match_case, ast.ExceptHandler)):
                todo.append((child, within))
    return found, inside


def _head(statement: ast.stmt, line: int) -> tuple[int, int]:
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body and line < body[0].lineno else statement.end_lineno
    return min(statement.lineno, line), max(last or line, line)


def replace_code(module: ModuleType, text: str) -> int:
    """Give every living function of a module the code that `text` has in its place. Says how many changed."""
    path = str(module.__file__)
    old = compile(Path(path).read_text("utf-8"), path, "exec", dont_inherit=True)
    pairs: dict[object, CodeType] = {}
    _pair(old, compile(text, path, "exec", dont_inherit=True), pairs)
    changed = 0
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == path:
            new = pairs.get(_key(function.__code__))
            if new is not None:
                function.__code__ = new
                changed += 1
    return changed


def _key(code: CodeType) -> object:
    return code.co_qualname, code.co_firstlineno, code.co_linetable  # the interpreter rewrites the rest as it runs


def _pair(old: CodeType, new: CodeType, pairs: dict[object, CodeType]) -> None:
    before, after = ([part for part in code.co_consts if isinstance(part, CodeType)] for code in (old, new))
    for one, other in zip(before, after, strict=False):
        if one != other:
            pairs[_key(one)] = other
            _pair(one, other, pairs)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Imports one module from another text."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        self._name, self._path, self._text = name, path, text

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=_Loader(fullname, str(self._path), self._text))

    def install(self) -> None:
        sys.meta_path.insert(0, self)
