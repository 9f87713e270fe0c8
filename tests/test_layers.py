"""Structure of the code: imports point one way, only the command line prints, and DESIGN.md names every package."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bulkdl"

# From the innermost to the outermost: a package imports from those before it in this list, and from itself. A new module
# needs no entry; a new package needs one word here and an entry in DESIGN.md.
PACKAGES = (
    "_version", "core", "protocol", "concurrency", "storage", "journal", "auth", "content", "manifest", "http", "planning",
    "transfer", "formats", "scheduler", "operations", "demo_server", "api", "cli", "__init__", "__main__",
)  # fmt: skip
LAZY_IS_FINE = ("cli/", "__main__")  # they import only what the command needs
PRINTERS = ("cli/", "demo_server/")
ENVIRONMENT_READERS = ("operations/run", "api", "cli/", "demo_server/", "__main__")


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module by its name with slashes, such as `auth/oidc`."""
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def package_of(module: str) -> str:
    """Return the top-level package of a module, or the module itself if it is in none."""
    return module.partition("/")[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imported(module: str, path: Path, *, at_runtime: bool) -> set[str]:
    """Return the modules of bulkdl that `module` imports; without `at_runtime` also those for type checkers."""
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


def imports_of(module: str) -> set[str]:
    """Return all imported modules, including those for type checkers and inside functions."""
    return imported(module, modules()[module], at_runtime=False)


def test_every_package_has_a_place_in_the_list():
    missing = sorted({package_of(module) for module in modules()} - set(PACKAGES))
    assert not missing, f"place these in PACKAGES and in DESIGN.md: {missing}"


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_its_own_package_or_further_in(module):
    own = PACKAGES.index(package_of(module))
    wrong = [other for other in sorted(imports_of(module)) if PACKAGES.index(package_of(other)) > own]
    assert not wrong, f"{module} imports outwards: {wrong}"


@pytest.mark.parametrize("module", [m for m in modules() if "/" in m])
def test_a_module_has_no_name_of_the_standard_library(module):
    """Programs started inside its folder would import it instead of the standard module."""
    name = module.rpartition("/")[2]
    assert name in {"__init__", "__main__"} or name not in sys.stdlib_module_names


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


def test_imports_make_no_cycle_even_for_type_checkers():
    cycle = find_cycle({module: imports_of(module) for module in modules()})
    assert cycle is None, " -> ".join(cycle or [])


def test_packages_make_no_cycle():
    graph: dict[str, set[str]] = {}
    for module in modules():
        own = package_of(module)
        graph.setdefault(own, set()).update(package_of(other) for other in imports_of(module))
    cycle = find_cycle({package: others - {package} for package, others in graph.items()})
    assert cycle is None, " -> ".join(cycle or [])


def test_a_cycle_would_be_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_an_import_for_type_checkers_and_a_lazy_one_are_both_seen(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import bulkdl.core.secret\n"
        "if TYPE_CHECKING:\n    from bulkdl.core.models import Product\n"
        "def f():\n    from bulkdl.core import urls\n    from bulkdl import __version__\n"
    )
    seen = {"core/secret", "core/urls", "__init__"}
    assert imported("scheduler/x", path, at_runtime=False) == seen | {"core/models"}
    assert imported("scheduler/x", path, at_runtime=True) == seen
    assert imported("cli/main", path, at_runtime=True) == {"core/secret"}


def test_the_design_page_has_an_entry_for_each_package():
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    missing = [p for p in PACKAGES if (PACKAGE / p).is_dir() and not re.search(rf"^- `{p}/`: ", text, re.MULTILINE)]
    assert not missing, f"give each of these an entry in DESIGN.md: {missing}"


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
