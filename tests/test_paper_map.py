"""The paper map is executed: what it names exists, and its commands are taken by the real command line."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from dynimg_vl.cli.app import dynimg_vl as command
from test_cli import run  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
    for line in (ROOT / "docs" / "paper_map.md").read_text().splitlines()
    if re.match(r"\| (Section|Equation|Table|Figure)", line)
]
COMMANDS = sorted({row[3] for row in ROWS})
QUICK = [line for line in COMMANDS if line.split()[:2] in (["dynimg-vl", verb] for verb in ("index", "show", "attend"))]
"""Those that take seconds: they need the sample clip, and no model but the embedded one."""


def find(symbol):
    """Import the longest module prefix of a dotted name and follow the rest as attributes."""
    names = symbol.split(".")
    for length in range(len(names), 0, -1):
        try:
            found = importlib.import_module(".".join(names[:length]))
        except ModuleNotFoundError:
            continue
        for name in names[length:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"no module for {symbol}")


def parse(words):
    """Let the command line take these words, without doing anything."""
    found, name, parent = command, "dynimg-vl", None
    while isinstance(found, click.Group):
        parent = found.make_context(name, list(words), parent=parent)
        name, found, words = found.resolve_command(parent, [*parent._protected_args, *parent.args])
    return found.make_context(name, list(words), parent=parent)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_row_names_a_symbol_and_a_test(row):
    _, _, symbol, _, test = row
    find(f"dynimg_vl.{symbol}")
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert any(function.startswith("test_") for function in functions)
    assert not name or name in functions


def test_every_equation_table_and_figure_has_a_row():
    places = " ".join(row[0] for row in ROWS)
    for place in (
        "Equation 1",
        "Equation 2",
        *(f"Table {n}" for n in range(1, 7)),
        *(f"Figure {n}" for n in range(1, 4)),
        "equation without a number",
        *(f"Section {n}" for n in ("3.1", "3.2", "4.1", "4.2", "4.3")),
    ):
        assert place in places, place


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_map_are_taken(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, *words = shlex.split(line)
    if first == "torchrun":  # ... -m dynimg_vl VERB
        first, words = "dynimg-vl", words[words.index("dynimg_vl") + 1 :]
    for word in words:
        assert not word.startswith(("recipes/", "examples/", "scripts/", "benchmarks/")) or (ROOT / word).is_file()
    if first == "python":
        source = (ROOT / words[0]).read_text()
        assert all(f'"{word}"' in source for word in words[1:] if word.startswith("-"))
        return
    assert first == "dynimg-vl"
    parse(words)


def test_what_the_command_line_would_not_take_is_noticed():
    for line in ("shoe x.mp4", "show x.mp4 -o x.png --colour", "ablate table9 --scale cpu -o out", "attend x -o y.png"):
        with pytest.raises(click.UsageError):
            parse(line.split())


@pytest.mark.parametrize("line", QUICK)
def test_quick_commands_of_the_map_are_run(line, run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(ROOT)
    code, out, err = run(*(word.replace("out/", f"{tmp_path}/") for word in shlex.split(line)[1:]))
    assert code == 0, err
    assert out
