"""The miniature benchmark: its files read as a task whose answers are those of the world."""

import importlib.util
from pathlib import Path

import pytest

from dynimg_vl.evaluation.tasks import find_task

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_motion_benchmark.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_motion_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_files_are_read_by_the_task(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "new_bank", lambda num, seed, make=script.new_bank: make(3, seed))
    monkeypatch.setattr("sys.argv", ["make", "-o", str(tmp_path), "--num", "2"])
    script.main()
    items = find_task("motionworld").load(tmp_path)
    assert [item.subtask for item in items] == [name for name in script.FAMILIES for _ in range(2)]
    for item in items:
        assert item.video is not None
        assert item.choices[item.answer_index] == item.answer
        assert 2 <= len(set(item.choices)) == len(item.choices) <= 5
