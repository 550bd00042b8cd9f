"""Fixtures of tiny runs: a plugin of the tests that train."""

import json

import pytest

from runs import save_tiny_model, write_recipe


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Give the folder of a tiny random model and its processor."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def recipe_of(tmp_path, clips, tiny_folder):
    """Write samples about `clips` and a recipe for them: recipe_of(samples, output=..., key=...) -> its path."""

    def write(samples, output="run", model=tiny_folder, **training):
        data = tmp_path / f"{output}.jsonl"
        data.write_text("\n".join(map(json.dumps, samples)))
        return write_recipe(tmp_path, model, data, output, video_root=clips, **training)

    return write
