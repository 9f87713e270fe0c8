"""The shape of the code: imports point one way, nothing but the outside prints, and the design page tells the truth."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bulkdl"

# From the innermost to the outermost; a module imports from its own layer or from one above it in this table.
LAYERS: dict[str, str] = {
    "values": "_version dataclass secret urls units clock model errors events stopping",
    "decisions": "ranges growth lead resume faulty hostfacts retry dialects names claims hours ending content/__init__ content/coding content/kinds content/sniff",
    "reading": "manifest/* auth/__init__ auth/providers auth/credentials auth/secretfiles content/safe",
    "edges": "store/* content/* trust watching limits streams moving lane brief pipeline sender broken heads hops ahead http auth/*",
    "work": "heritage bench behind pages witness apart standing existing room ruling unpacking plan preview opening segments transfer convoy placing together engine wiring tally ground crew run inspect remote",
    "outside": "__init__ __main__ summary api archive/* formats/* cli/*",
}
ORDER = list(LAYERS)
LAZY_IS_FINE = ("cli/", "__main__")  # they import only what the command needs
PRINTERS = ("cli/", "archive/")
ENVIRONMENT_READERS = ("run", "api", "cli/", "archive/", "__main__")


@cache
def modules() -> dict[str, Path]:
    """Name with slashes, such as `auth/oidc` -> file."""
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def layer_of(module: str) -> str | None:
    """The layer that names the module, before one that names its whole package."""
    for wanted in (module, module.rpartition("/")[0] + "/*"):
        for layer, names in LAYERS.items():
            if wanted in names.split():
                return layer
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imported(module: str, path: Path, *, at_runtime: bool) -> set[str]:
    """The modules of bulkdl that `module` imports anywhere, those for type checkers only if asked for."""
    known = modules()
    found: set[str] = set()

    def note(dotted: str) -> None:
        name = dotted.removeprefix("bulkdl").lstrip(".").replace(".", "/")
        options = (name, f"{name}/__init__".lstrip("/"))
        found.update(option for option in options if option in known and option != module)

    def visit(node: ast.AST, *, inside_function: bool) -> None:
        if is_type_checking(node) and at_runtime:
            for child in node.orelse:
                visit(child, inside_function=inside_function)
            return
        if not (inside_function and module.startswith(LAZY_IS_FINE)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "bulkdl":
                        note(alias.name)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}:{node.lineno} imports relatively"
                if (node.module or "").split(".")[0] == "bulkdl":
                    for alias in node.names:
                        whole = f"{node.module}.{alias.name}"
                        inner = whole.removeprefix("bulkdl.").replace(".", "/")
                        note(whole if inner in known or f"{inner}/__init__" in known else node.module)
        deeper = inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside_function=deeper)

    visit(tree(path), inside_function=False)
    return found


def test_every_module_has_a_place_in_the_table():
    missing = [module for module in modules() if layer_of(module) is None]
    assert not missing, f"place these in LAYERS and in DESIGN.md: {missing}"


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_its_own_layer_or_further_in(module):
    own = layer_of(module)
    if own is None:
        pytest.fail(f"{module} has no layer")
    wrong = [
        f"{module} ({own}) imports {other} ({layer_of(other)})"
        for other in sorted(imported(module, modules()[module], at_runtime=False))
        if layer_of(other) is not None and ORDER.index(layer_of(other)) > ORDER.index(own)
    ]
    assert not wrong


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    finished: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str] | None:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in finished:
            return None
        for target in sorted(graph.get(node, ())):
            if cycle := walk(target, [*way, node]):
                return cycle
        finished.add(node)
        return None

    return next((cycle for start in graph if (cycle := walk(start, []))), None)


def test_imports_make_no_cycle():
    graph = {module: imported(module, path, at_runtime=True) for module, path in modules().items()}
    cycle = find_cycle(graph)
    assert cycle is None, " -> ".join(cycle or [])


def test_a_cycle_would_be_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_an_import_for_type_checkers_and_a_lazy_one_are_both_seen(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import bulkdl.secret\n"
        "if TYPE_CHECKING:\n    from bulkdl.model import Product\n"
        "def f():\n    from bulkdl import urls, __version__\n"
    )
    assert imported("engine", path, at_runtime=False) == {"secret", "model", "urls", "__init__"}
    assert imported("engine", path, at_runtime=True) == {"secret", "urls", "__init__"}
    assert imported("cli/main", path, at_runtime=True) == {"secret"}


def design_rows() -> dict[str, set[str]]:
    """Layer -> the modules that DESIGN.md's table names, `auth/` (`oidc`) spelt out as `auth/oidc`."""
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    rows: dict[str, set[str]] = {}
    for layer in ORDER:
        row = re.search(rf"^\| {layer} \| (.*?) \|", text, re.MULTILINE)
        assert row, f"DESIGN.md has no row for {layer}"
        names: set[str] = set()
        for folder, inner, plain in re.findall(r"`([\w/]+/)`(?: \(([^)]*)\))?|`([\w/]+)`", row.group(1)):
            inside = re.findall(r"`(\w+)`", inner)
            names |= {folder + name for name in inside} or {f"{folder}*"} if folder else {plain}
        rows[layer] = names
    return rows


def test_the_design_page_places_modules_where_the_table_does():
    wrong = []
    for layer, names in design_rows().items():
        for name in names:
            there = layer if name in LAYERS[layer].split() else layer_of(name)
            if there != layer:
                wrong.append(f"{name}: {layer} on the page, {there} in the table")
    assert not wrong


@pytest.mark.parametrize("module", [m for m in modules() if not m.endswith(("__init__", "__main__", "_version"))])
def test_the_design_page_names_every_module(module):
    rows = design_rows()
    layer = layer_of(module)
    if layer is None:
        pytest.fail(f"{module} has no layer")
    package = module.rpartition("/")[0] + "/*"
    assert module in rows[layer] or package in rows[layer], f"add {module} to the row of {layer} in DESIGN.md"


def places(module: str, *, where) -> list[str]:
    return [f"bulkdl/{module}.py:{node.lineno}" for node in ast.walk(tree(modules()[module])) if where(node)]


def prints(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "print"
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}


def reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in {"environ", "getenv", "environb"} for alias in node.names)
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}


def swallows_everything(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = "BaseException" if node.type is None else ast.unparse(node.type)
    raises = any(isinstance(inner, ast.Raise) for statement in node.body for inner in ast.walk(statement))
    return re.search(r"\bBaseException\b", caught) is not None and not raises


@pytest.mark.parametrize("module", [m for m in modules() if not m.startswith(PRINTERS)])
def test_a_module_below_the_command_line_never_prints(module):
    assert not places(module, where=prints)


@pytest.mark.parametrize("module", [m for m in modules() if not m.startswith(ENVIRONMENT_READERS)])
def test_a_module_below_the_composition_root_never_reads_the_environment(module):
    assert not places(module, where=reads_environment)


@pytest.mark.parametrize("module", modules())
def test_a_handler_that_catches_everything_raises_again(module):
    assert not places(module, where=swallows_everything)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("print('x')", prints),
        ("sys.stderr.write('x')", prints),
        ("os.environ['A']", reads_environment),
        ("os.getenv('A')", reads_environment),
        ("from os import environ", reads_environment),
        ("try:\n    f()\nexcept:\n    pass", swallows_everything),
        ("try:\n    f()\nexcept BaseException as e:\n    log(e)", swallows_everything),
        ("try:\n    f()\nexcept (KeyError, BaseException):\n    pass", swallows_everything),
    ],
)
def test_a_rule_sees_what_it_forbids(source, rule):
    assert any(rule(node) for node in ast.walk(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["try:\n    f()\nexcept BaseException:\n    g()\n    raise", "try:\n    f()\nexcept OSError:\n    pass"]
)
def test_a_handler_that_raises_or_names_its_errors_is_fine(source):
    assert not any(swallows_everything(node) for node in ast.walk(ast.parse(source)))
