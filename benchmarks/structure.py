"""The shape of the code in figures, of one checkout or of two beside each other.

    python benchmarks/structure.py [ROOT] [--against OTHER_ROOT] [--names] [--quick]

Reads the one package below ROOT/src, its tests and ``pyproject.toml``; nothing is imported. With --against
the other checkout's figures stand in front, as those of before. Near copies are counted by the program
``duplicates`` where it is on the PATH.
"""

import argparse
import ast
import re
import shutil
import statistics
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MANY_ARGUMENTS = 8
NOT_MEASURED = "not measured"
_DOORS = ("__init__.py", "__main__.py")

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Package:
    """A package as it was read.

    Attributes:
        root: The checkout.
        name: Of the package.
        modules: Syntax tree of each module, by its path below the package's folder.
        lines: Number of lines of each.
    """

    root: Path
    name: str
    modules: Mapping[PurePosixPath, ast.Module]
    lines: Mapping[PurePosixPath, int]

    @classmethod
    def read(cls, root: Path) -> "Package":
        """Read the package below ``src``.

        Raises:
            ValueError: There is none or more than one.
            SyntaxError: A module cannot be parsed.
        """
        folders = sorted(path.parent for path in root.glob("src/*/__init__.py"))
        if len(folders) != 1:
            raise ValueError(f"expected one package below {root / 'src'}, found {len(folders)}")
        [folder] = folders
        texts = {
            PurePosixPath(path.relative_to(folder).as_posix()): path.read_text(encoding="utf-8")
            for path in sorted(folder.rglob("*.py"))
        }
        trees = {path: ast.parse(text, str(folder / path)) for path, text in texts.items()}
        return cls(root, folder.name, trees, {path: len(text.splitlines()) for path, text in texts.items()})

    def dotted(self, path: PurePosixPath) -> str:
        """Return a module's full name; that of a folder for its ``__init__.py``."""
        parts = path.with_suffix("").parts
        return ".".join((self.name, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def imports(package: Package) -> Graph:
    """Return which modules of the package each module imports, anywhere in it but for annotations."""
    known = {package.dotted(path) for path in package.modules}
    found = {}
    for path, tree in package.modules.items():
        name = package.dotted(path)
        inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets = {_module(target, known) for target in _targets(tree, inside)} - {None, name}
        found[name] = frozenset(target for target in targets if target)
    return found


def _targets(tree: ast.AST, inside: str) -> Iterator[str]:
    """Yield the full name of all that is imported; blocks for type checkers alone are passed over."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = inside.split(".")[: len(inside.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _for_types_alone(node.test):
            yield from (name for part in node.orelse for name in _targets(ast.Module([part], []), inside))
        else:
            yield from _targets(node, inside)


def _for_types_alone(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _module(target: str, known: set[str]) -> str | None:
    """Return the longest known module that a full name begins with."""
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target or None


def between_rooms(graph: Graph) -> Graph:
    """Return the graph of the package's own folders and top modules; its ``__init__`` is one of them."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, targets in graph.items():
        room = ".".join(name.split(".")[:2])
        rooms[room] |= {".".join(target.split(".")[:2]) for target in targets} - {room}
    return {room: frozenset(targets) for room, targets in rooms.items()}


def cycles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of more than one node.

    Example:
        >>> cycles({"a": frozenset("b"), "b": frozenset("a"), "c": frozenset("a")})
        [['a', 'b']]
    """
    reached = {node: _reached(graph, node) for node in graph}
    components = {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ()))) for node in graph
    }
    return sorted(list(component) for component in components if len(component) > 1)


def _reached(graph: Graph, start: str) -> set[str]:
    seen, waiting = set[str](), [start]
    while waiting:
        for target in graph.get(waiting.pop(), frozenset()) - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def argument_counts(package: Package) -> dict[str, int]:
    """Return how many arguments each function takes, ``self`` and ``cls`` not counted, by module and line."""
    found = {}
    for path, tree in package.modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                count += (given.vararg is not None) + (given.kwarg is not None)
                found[f"{path}:{node.lineno} {node.name}"] = count
    return found


def names_that_mean_two_things(package: Package) -> dict[str, list[str]]:
    """Return public names that modules define differently, with those modules.

    A definition is a function, class or constant at the top of a module, without an underscore. Not counted
    are definitions that are the same to the letter (copies), a name for what is imported (``A =
    other.A``), functions of modules that import ``typer`` (verbs, named by what users type), and one
    interface kept by siblings: files of one name at the same place in folders side by side, below a common
    folder of the package (``tasks/*/recipe.py``).
    """
    found: dict[str, dict[PurePosixPath, str]] = defaultdict(dict)
    for path, tree in package.modules.items():
        verbs = _holds_verbs(tree)
        for node, name in _definitions(tree.body):
            if not name.startswith("_") and not (verbs and isinstance(node, ast.FunctionDef)):
                found[name][path] = ast.dump(node)
    return {
        name: [package.dotted(path) for path in meanings]
        for name, meanings in sorted(found.items())
        if len(set(meanings.values())) > 1 and not _siblings(list(meanings))
    }


def _definitions(body: Iterable[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            elements = [each for target in targets for each in getattr(target, "elts", [target])]
            for name in (each.id for each in elements if isinstance(each, ast.Name)):
                if not _is_reexport(node.value, name):
                    yield node, name
        elif isinstance(node, ast.If) and not _for_types_alone(node.test):
            yield from _definitions([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _definitions([*node.body, *(each for part in node.handlers for each in part.body)])


def _holds_verbs(tree: ast.Module) -> bool:
    """Say whether a module is of the command line, whose functions have the names that users type."""
    return any(isinstance(node, ast.Import) and node.names[0].name == "typer" for node in tree.body)


def _is_reexport(value: ast.expr | None, name: str) -> bool:
    return isinstance(value, ast.Attribute) and value.attr == name


def _siblings(paths: Sequence[PurePosixPath]) -> bool:
    """Say whether paths differ in one folder alone, which is not at the top of the package."""
    parts = [path.parts for path in paths]
    if len({len(each) for each in parts}) > 1:
        return False
    different = [i for i, level in enumerate(zip(*parts, strict=True)) if len(set(level)) > 1]
    return len(different) == 1 and 0 < different[0] < len(parts[0]) - 1


def contract_lines(root: Path) -> tuple[int, int]:
    """Return how many layers and how many ignored imports the contracts of import-linter name."""
    contents = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = contents.get("tool", {}).get("importlinter", {}).get("contracts", [])
    counts = [sum(len(one.get(key, [])) for one in contracts) for key in ("layers", "ignore_imports")]
    return counts[0], counts[1]


def count_tests(root: Path) -> int:
    """Return the number of functions in ``tests`` that are tests; one with many parameters counts once."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8")) for path in sorted((root / "tests").rglob("test_*.py"))
    ]
    functions = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return sum(node.name.startswith("test_") for node in functions)


def near_copies(root: Path) -> str:
    """Return how many pairs of places ``duplicates`` finds in ``src``; that it is not measured without it."""
    program = shutil.which("duplicates")
    if program is None:
        return NOT_MEASURED
    call = [program, "--repo", str(root / "src"), "--most", "1", "--seconds", "300"]
    said = subprocess.run(call, capture_output=True, text=True, check=False).stdout
    if said.startswith("no duplicates"):
        return "0"
    count = re.match(r"(\d+) pairs?", said)
    return count[1] + (" or more" if "incomplete:" in said else "") if count else NOT_MEASURED


def figures(package: Package, *, copies: bool = True) -> dict[str, str]:
    """Measure a package.

    Args:
        package: What was read.
        copies: Whether to count near copies, which takes seconds.

    Returns:
        Each figure as a text, by what it is.
    """
    graph = imports(package)
    lengths = sorted(package.lines.values())
    counts = argument_counts(package)
    largest = max(package.lines, key=lambda path: (package.lines[path], str(path)))
    layers, ignored = contract_lines(package.root)
    top = [path for path in package.modules if len(path.parts) == 1 and path.name not in _DOORS]
    folders = {path.parts[0] for path in package.modules if len(path.parts) > 1}
    rooms = cycles(between_rooms(graph))
    return {
        "modules at the top": str(len(top)),
        "folders at the top": str(len(folders)),
        "import contract: layers": str(layers),
        "import contract: ignored imports": str(ignored),
        "cycles between folders and top modules": _counted(rooms),
        "cycles between modules": _counted(cycles(graph)),
        "files": str(len(lengths)),
        "lines": str(sum(lengths)),
        "lines of a file: median": f"{statistics.median(lengths):g}",
        "lines of a file: 90 %": str(lengths[-(-len(lengths) * 9 // 10) - 1]),
        "lines of a file: largest": f"{package.lines[largest]} ({largest})",
        f"functions with more than {MANY_ARGUMENTS} arguments": str(
            sum(count > MANY_ARGUMENTS for count in counts.values())
        ),
        "most arguments": str(max(counts.values(), default=0)),
        "public names that mean two things": str(len(names_that_mean_two_things(package))),
        "pairs of near copies": near_copies(package.root) if copies else NOT_MEASURED,
        "test functions": str(count_tests(package.root)),
    }


def _counted(components: Sequence[Sequence[str]]) -> str:
    if not components:
        return "0"
    sizes = ", ".join(str(len(component)) for component in components)
    return f"{len(components)} (of {sizes})"


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Return figures as lines, a column for each checkout."""
    rows = [["", *columns]]
    rows += [[what, *(each[what] for each in columns.values())] for what in next(iter(columns.values()))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def details(package: Package) -> str:
    """Return the names behind the figures: cycles, long lists of arguments, names that mean two things."""
    graph = imports(package)
    lines = ["cycles between folders and top modules:"]
    lines += [f"  {' '.join(each)}" for each in cycles(between_rooms(graph))]
    lines += ["cycles between modules:", *(f"  {' '.join(each)}" for each in cycles(graph))]
    counts = sorted(argument_counts(package).items(), key=lambda item: (-item[1], item[0]))
    lines.append(f"functions with more than {MANY_ARGUMENTS} arguments:")
    lines += [f"  {count} {where}" for where, count in counts if count > MANY_ARGUMENTS]
    lines.append("public names that mean two things:")
    lines += [f"  {name}: {', '.join(where)}" for name, where in names_that_mean_two_things(package).items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and the names behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    parser.add_argument("--against", type=Path, help="checkout of before")
    parser.add_argument("--names", action="store_true", help="print what was counted as well")
    parser.add_argument("--quick", action="store_true", help="do not count near copies")
    options = parser.parse_args(arguments)
    package = Package.read(options.root)
    columns = {}
    if options.against:
        columns["before"] = figures(Package.read(options.against), copies=not options.quick)
    columns["after" if options.against else "now"] = figures(package, copies=not options.quick)
    print(table(columns))
    if options.names:
        print(f"\n{details(package)}")


if __name__ == "__main__":
    main()
