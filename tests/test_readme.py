"""What the README shows is what happens."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dynimg_vl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def sessions():
    """Yield (command, output) of every `$` line in a console block."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


@pytest.fixture
def folder(tmp_path):
    """Give an empty folder with the examples in it, to run commands as from the clone."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.mark.parametrize(("command", "output"), list(sessions()), ids=lambda value: value[:40])
def test_a_command_prints_what_the_readme_says(command, output, folder):
    name, *arguments = shlex.split(command)
    assert name == "dynimg-vl"
    run = [sys.executable, "-m", "dynimg_vl", *arguments]
    result = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout == output


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_lines_run(code, folder):
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)


def test_the_demo_runs_the_commands_shown():
    makefile = (ROOT / "Makefile").read_text()
    for command, _ in sessions():
        assert command in makefile


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_changelog_knows_the_version():
    assert f"[{dynimg_vl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
