"""Hold the layers of docs/design.md and the sizes that keep a file in one reader's head."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "dynimg_vl"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

LAYERS = {
    "errors": 0, "numeric": 0, "processes": 0, "layout": 0, "video": 0,
    "compose": 1, "positions": 1, "augment": 1, "loading": 1,
    "model": 2, "motion": 2, "text_formats": 2,
    "answering": 3, "inference": 3, "render": 3, "conversion": 3,
    "training": 4, "evaluation": 4,
    "cli": 5,
}  # fmt: skip
FACADE = {"__init__", "_registration", "__main__"}
TOP = 5
SIBLINGS_MAY_NOT_MEET = {4}
# What a layer may import besides the standard library and the layers below it.
THIRD_PARTY = {0: {"numpy", "av"}, 1: {"numpy", "torch"}}
NO_TORCH = {"loading", "render"}


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path):
    """Yield (absolute module, line) of every import in a file, relative ones resolved."""
    package = ("dynimg_vl", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module in ("dynimg_vl", "dynimg_vl.cli"):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def path(request):
    return request.param


def test_every_part_has_a_layer(path):
    assert part_of(path) in LAYERS.keys() | FACADE


def test_imports_go_down_the_layers(path):
    part = part_of(path)
    if part in FACADE:
        return
    for module, line in imports_of(path):
        names = module.split(".")
        if names[0] != "dynimg_vl" or len(names) < 2 or names[1] in FACADE or names[1].startswith("__"):
            continue
        where = f"{path.name}:{line} imports {module}"
        assert names[1] in LAYERS, where
        assert LAYERS[names[1]] <= LAYERS[part], where
        if LAYERS[part] in SIBLINGS_MAY_NOT_MEET and LAYERS[names[1]] == LAYERS[part]:
            assert names[1] == part, where


def test_third_party_imports_fit_the_layer(path):
    import sys

    part = part_of(path)
    allowed = THIRD_PARTY.get(LAYERS.get(part, TOP))
    for module, line in imports_of(path):
        top = module.split(".")[0]
        where = f"{path.name}:{line} imports {module}"
        if part in NO_TORCH:
            assert top not in ("torch", "transformers"), where
        if allowed is not None and top != "dynimg_vl" and top not in sys.stdlib_module_names:
            assert top in allowed, where
        if LAYERS.get(part, TOP) < TOP:
            assert top not in ("argparse", "typer", "click"), where


def test_sizes(path):
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno} {node.name} has {length} lines"


def test_nothing_is_evaluated_swallowed_or_printed(path):
    below_cli = LAYERS.get(part_of(path), TOP) < TOP or part_of(path) in FACADE
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), where
            assert not (below_cli and node.func.id in ("print", "input")), where
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where} bare except"
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            only_pass = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (broad and only_pass), f"{where} swallows every error"
        if below_cli and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in (("os", "environ"), ("os", "getenv")), where


def test_the_rules_see_what_they_forbid():
    """Guard the guard: a planted upward import is resolved to its module."""
    node = next(iter(imports_of(PACKAGE / "errors.py")), None)
    assert node is None  # errors.py imports nothing
    modules = {module for module, _ in imports_of(PACKAGE / "compose.py")}
    assert {"dynimg_vl.errors", "dynimg_vl.layout", "torch"} <= modules
