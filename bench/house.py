"""The source itself in figures: how much code there is, where it is long, tangled or told twice.

    python -m bench.house [CHECKOUT]      another checkout than this one, say to compare two

A code line holds a token that is neither a comment nor part of a docstring. A function's parameters are counted without
self and cls, `*args` and `**kwargs` as one each. Imports count wherever they stand, inside functions too, but not under
`if TYPE_CHECKING`; a cycle is a set of modules each of which reaches all others. A unit is a top folder or a top file.
Duplicates are two places with `WINDOW` or more consecutive code lines that are equal, import statements left out: line
by line (literal), or once names, texts and numbers are replaced (shape); windows of fewer than `MIN_DISTINCT` different
lines are tables and left out. The longest matches count, and the lines that stand in any.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import json
import keyword
import time
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.about import about, rounded

NUM_LARGEST = 10
MAX_PARAMETERS = 6
WINDOW = 6  # code lines
MIN_DISTINCT = 4  # different lines in a window
BLANK = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
FSTRING_START, FSTRING_END = getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "FSTRING_END", -1)  # from 3.12

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = Mapping[str, set[str]]


class Line(NamedTuple):
    """A code line: its number in the file, and its tokens as written and by shape."""

    number: int
    literal: str
    shape: str


class Match(NamedTuple):
    """Two equal places: file and line number of each, and how many code lines are equal."""

    path: str
    line: int
    other_path: str
    other_line: int
    num_lines: int


class Source:
    """A parsed file. `module` is its dotted name, `path` is relative to the root of the package or of the tests."""

    def __init__(self, file: Path, root: Path, package: str) -> None:
        self.path = file.relative_to(root).as_posix()
        parts = [package, *file.relative_to(root).with_suffix("").parts]
        self.is_package = parts[-1] == "__init__"
        self.module = ".".join(parts[:-1] if self.is_package else parts)
        self.unit = parts[1]
        self.folder = parts[1] if len(parts) > 2 else "(top)"
        text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(text)
        self._text_lines = text.splitlines()
        self._tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        self._documentation = set(_rows(node for node in ast.walk(self.tree) if _is_documentation(node)))

    @functools.cached_property
    def code_rows(self) -> set[int]:
        """Numbers of the code lines."""
        rows: set[int] = set()
        for token in self._tokens:
            if token.type not in BLANK:
                rows.update(range(token.start[0], token.end[0] + 1))
        return {row for row in rows - self._documentation if self._text_lines[row - 1].strip()}

    def num_lines(self, node: ast.AST | None = None) -> int:
        """Return how many code lines the file, or a function with its decorators, has."""
        if node is None:
            return len(self.code_rows)
        return len(self.code_rows.intersection(_rows([node])))

    def functions(self) -> Iterator[tuple[str, Function, bool]]:
        """Every function with its dotted name, and whether it is a method."""
        yield from _functions(self.tree, self.module, False)

    def lines(self) -> list[Line]:
        """The code lines, without import statements."""
        left_out = set(_rows(node for node in ast.walk(self.tree) if isinstance(node, ast.Import | ast.ImportFrom)))
        by_row: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for kind, text, row in _joined(self._tokens):
            if row in self.code_rows and row not in left_out:
                by_row[row].append((text, _shape(kind, text)))
        return [
            Line(row, " ".join(text for text, _ in tokens), " ".join(shape for _, shape in tokens))
            for row, tokens in sorted(by_row.items())
        ]


def _rows(nodes: Iterable[ast.AST]) -> Iterator[int]:
    for node in nodes:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])  # type: ignore[attr-defined]
        yield from range(first, node.end_lineno + 1)  # type: ignore[attr-defined]


def _is_documentation(node: ast.AST) -> bool:
    """Whether a statement is a text that nobody reads: a docstring, or one below an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _functions(node: ast.AST, name: str, in_class: bool) -> Iterator[tuple[str, Function, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield f"{name}.{child.name}", child, in_class
            yield from _functions(child, f"{name}.{child.name}", False)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{name}.{child.name}", True)
        else:
            yield from _functions(child, name, in_class)


def _joined(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tuple[int, str, int]]:
    """Type, text and row of every token of code. A formatted string is one token, as it was before Python 3.12."""
    depth, text, start = 0, "", 0
    for token in tokens:
        if token.type == FSTRING_START:
            start = start if depth else token.start[0]
            depth += 1
        if depth:
            text += token.string
            if token.type == FSTRING_END:
                depth -= 1
                if not depth:
                    yield tokenize.STRING, text, start
                    text = ""
        elif token.type not in BLANK:
            yield token.type, token.string, token.start[0]


def _shape(kind: int, text: str) -> str:
    if kind == tokenize.NAME and not keyword.iskeyword(text):
        return "name"
    return {tokenize.STRING: "text", tokenize.NUMBER: "0"}.get(kind, text)


# --- imports ----------------------------------------------------------------------------------------------------------


def imports(source: Source, modules: set[str]) -> tuple[set[str], int]:
    """Return the modules of the package that a file imports, and how many of these imports stand inside functions."""
    found: set[str] = set()
    num_late = 0
    for node, late in _import_nodes(source.tree, False):
        targets = set(_targets(node, source)) if isinstance(node, ast.ImportFrom) else {a.name for a in node.names}
        for target in targets:
            while target and target not in modules:  # a name in a module: the module
                target = target.rpartition(".")[0]
            if target and target != source.module:
                found.add(target)
                num_late += late
    return found, num_late


def _import_nodes(node: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _import_nodes(other, late)
        else:
            yield from _import_nodes(child, late or isinstance(child, Function | ast.Lambda))


def _targets(node: ast.ImportFrom, source: Source) -> Iterator[str]:
    above: list[str] = []
    if node.level:
        above = source.module.split(".")
        above = above[: len(above) - node.level + source.is_package]
    module = [*above, *([node.module] if node.module else [])]
    yield from (".".join([*module, alias.name]) for alias in node.names)


def cycles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of two or more nodes, the largest first."""
    reached = {node: _reached(graph, node) for node in graph}
    components = {frozenset([node, *(other for other in reached[node] if node in reached[other])]) for node in graph}
    return sorted((sorted(each) for each in components if len(each) > 1), key=lambda nodes: (-len(nodes), nodes))


def _reached(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - reached
        reached |= new
        waiting.extend(new)
    return reached


# --- names ------------------------------------------------------------------------------------------------------------


def num_parameters(node: Function, is_method: bool) -> int:
    """Return how many parameters a function has, without self and cls."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args]
    is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if is_method and named and not is_static:
        named = named[1:]
    variadic = (arguments.vararg is not None) + (arguments.kwarg is not None)
    return len(named) + len(arguments.kwonlyargs) + variadic


def num_any(tree: ast.AST) -> int:
    """Return how often `Any` is used, its imports not counted."""
    names = sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
    return names + sum(isinstance(node, ast.Attribute) and node.attr == "Any" for node in ast.walk(tree))


def public_names(tree: ast.Module) -> set[str]:
    """Return the classes and functions that a module defines at its top, but for those that begin with _."""
    names: set[str] = set()
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.If | ast.Try):
            waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
    return {name for name in names if not name.startswith("_")}


# --- duplicates -------------------------------------------------------------------------------------------------------


def duplicates(files: Mapping[str, Sequence[Line]], text_of: Callable[[Line], str]) -> tuple[list[Match], int]:
    """Return the longest matches of two places, the longest first, and how many lines stand in any of them."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for path, lines in files.items():
        texts = [text_of(line) for line in lines]
        for start in range(len(texts) - WINDOW + 1):
            window = tuple(texts[start : start + WINDOW])
            if len(set(window)) >= MIN_DISTINCT:
                places[window].append((path, start))
    pairs: set[tuple[str, int, str, int]] = set()
    for found in places.values():
        for index, (path, start) in enumerate(found):
            for other_path, other_start in found[index + 1 :]:
                if path != other_path or other_start - start >= WINDOW:
                    pairs.add((path, start, other_path, other_start))
    matches = []
    doubled: set[tuple[str, int]] = set()
    for path, start, other_path, other_start in pairs:
        if (path, start - 1, other_path, other_start - 1) in pairs:
            continue
        more = 0
        while (path, start + more, other_path, other_start + more) in pairs:
            more += 1
        num_lines = WINDOW - 1 + more
        doubled.update((path, start + i) for i in range(num_lines))
        doubled.update((other_path, other_start + i) for i in range(num_lines))
        numbers = files[path][start].number, files[other_path][other_start].number
        matches.append(Match(path, numbers[0], other_path, numbers[1], num_lines))
    return sorted(matches, key=lambda match: (-match.num_lines, match)), len(doubled)


# --- all of it --------------------------------------------------------------------------------------------------------


def package_of(checkout: Path) -> Path:
    """Return the folder of the package in a checkout."""
    folders = sorted(file.parent for file in (checkout / "src").glob("*/__init__.py"))
    if not folders:
        raise SystemExit(f"{checkout}: holds no src/PACKAGE/__init__.py; give the root of a checkout")
    return folders[0]


def num_lines_below(folder: Path) -> int:
    """Return how many code lines stand below a folder."""
    return sum(Source(file, folder, folder.name).num_lines() for file in folder.rglob("*.py")) if folder.exists() else 0


def measure(checkout: Path) -> dict[str, Any]:
    """Return every figure about a checkout."""
    package = package_of(checkout)
    sources = [Source(file, package, package.name) for file in sorted(package.rglob("*.py"))]
    num_code = sum(source.num_lines() for source in sources)
    folders: dict[str, Counter[str]] = defaultdict(Counter)
    names: dict[str, list[str]] = defaultdict(list)
    functions: list[tuple[str, int]] = []
    parameters: list[tuple[str, int]] = []
    for source in sources:
        folders[source.folder] += Counter(modules=1, code_lines=source.num_lines())
        for name in public_names(source.tree):
            names[name].append(source.module)
        for name, node, is_method in source.functions():
            short = name.partition(".")[2]
            functions.append((short, source.num_lines(node)))
            parameters.append((short, num_parameters(node, is_method)))
    modules = {source.module for source in sources}
    imported = {source.module: imports(source, modules) for source in sources}
    unit = {source.module: source.unit for source in sources}
    units: dict[str, set[str]] = {name: set() for name in unit.values()}
    for module, (targets, _) in imported.items():
        units[unit[module]] |= {unit[target] for target in targets} - {unit[module]}
    module_cycles = cycles({module: targets for module, (targets, _) in imported.items()})
    unit_cycles = cycles(units)
    lines = {source.path: source.lines() for source in sources}
    literal, literal_lines = duplicates(lines, lambda line: line.literal)
    shape, shape_lines = duplicates(lines, lambda line: line.shape)
    twice = {name: where for name, where in sorted(names.items()) if len(where) > 1}
    many = _largest([(name, num) for name, num in parameters if num > MAX_PARAMETERS], None)
    num_tests = num_lines_below(checkout / "tests")
    return {
        "modules": len(sources),
        "code_lines": num_code,
        "packages": {name: dict(folders[name]) for name in sorted(folders)},
        "largest_files": _largest([(source.path, source.num_lines()) for source in sources]),
        "largest_functions": _largest(functions),
        "many_parameters": len(many),
        "many_parameters_list": many,
        "any_uses": sum(num_any(source.tree) for source in sources),
        "late_imports": sum(num_late for _, num_late in imported.values()),
        "module_cycles": len(module_cycles),
        "module_cycles_list": module_cycles,
        "package_cycles": len(unit_cycles),
        "package_cycles_list": unit_cycles,
        "names_defined_twice": len(twice),
        "names_defined_twice_list": twice,
        "test_lines": num_tests,
        "tests_over_code": num_tests / num_code,
        "bench_lines": num_lines_below(checkout / "bench"),
        "training_lines": num_lines_below(checkout / "training"),
        "duplicates_literal": {"matches": len(literal), "lines": literal_lines, "longest": literal[:NUM_LARGEST]},
        "duplicates_shape": {"matches": len(shape), "lines": shape_lines, "longest": shape[:NUM_LARGEST]},
    }


def _largest(rows: Iterable[tuple[str, int]], num: int | None = NUM_LARGEST) -> list[tuple[str, int]]:
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:num]


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """Print the figures as tables."""
    table = Table("figure", "value", box=None)
    for name, value in figures.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.2f}")
    for name in ("duplicates_literal", "duplicates_shape"):
        table.add_row(name, f"{figures[name]['matches']:,} matches, {figures[name]['lines']:,} lines in them")
    console.print(table, "")
    packages = Table("package", "modules", "code lines", box=None)
    for name, counts in figures["packages"].items():
        packages.add_row(name, f"{counts['modules']}", f"{counts['code_lines']:,}")
    console.print(packages, "")
    for title, name in (
        ("largest files, code lines", "largest_files"),
        ("largest functions, code lines", "largest_functions"),
        (f"functions of more than {MAX_PARAMETERS} parameters", "many_parameters_list"),
    ):
        rows = Table(title, "", box=None)
        for where, num in figures[name]:
            rows.add_row(where, f"{num}")
        console.print(rows, "")
    for title, name in (("modules", "module_cycles_list"), ("packages", "package_cycles_list")):
        for nodes in figures[name]:
            console.print(f"cycle of {len(nodes)} {title}: {', '.join(nodes)}")
    for name, where in figures["names_defined_twice_list"].items():
        console.print(f"{name} is defined in {', '.join(where)}")
    for name in ("duplicates_literal", "duplicates_shape"):
        for match in figures[name]["longest"]:
            places = f"{match.path}:{match.line} and {match.other_path}:{match.other_line}"
            console.print(f"{name}: {match.num_lines} lines at {places}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
    options = parser.parse_args()
    started = time.monotonic()
    figures = measure(options.checkout)
    show(Console(width=150, highlight=False, markup=False), figures)
    print(json.dumps(rounded({**figures, **about("house", 0, started)})))


if __name__ == "__main__":
    main()
