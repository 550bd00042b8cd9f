"""The paper map names what exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from dynimg_vl.cli.app import dynimg_vl as command

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
    for line in (ROOT / "docs" / "paper_map.md").read_text().splitlines()
    if re.match(r"\| (Section|Equation|Table|Figure)", line)
]
COMMANDS = sorted(
    {(verb, flags) for row in ROWS for verb, flags in re.findall(r"`dynimg-vl ([a-z]+)([a-z -]*)", row[1])}
)
SCRIPTS = sorted({name for row in ROWS for name in re.findall(r"`(scripts/\w+\.py)", row[1])})


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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_row_names_a_symbol_and_a_test(row):
    _, _, symbol, test = row
    if symbol == "open":
        assert test == "open"
        return
    find(symbol)
    path, _, name = test.partition("::")
    functions = {n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)}
    assert any(function.startswith("test_") for function in functions)
    assert not name or name in functions


def test_every_equation_table_and_figure_has_a_row():
    places = " ".join(row[0] for row in ROWS)
    for place in (
        "Equation 1",
        "Equation 2",
        *(f"Table {n}" for n in range(1, 7)),
        *(f"Figure {n}" for n in range(1, 4)),
    ):
        assert place in places, place


@pytest.mark.parametrize(("verb", "flags"), COMMANDS)
def test_commands_of_the_map_exist(verb, flags):
    options = {name for parameter in command.commands[verb].params for name in parameter.opts}
    assert set(flags.split()) <= options


def test_scripts_of_the_map_exist():
    assert SCRIPTS
    assert all((ROOT / name).is_file() for name in SCRIPTS)
