"""What the tests of the training data share: tiny videos, a mixture of them, a tiny processor."""

import json

import pytest
import torch
import yaml

from synthetic import write_video
from tiny import tiny_config, tiny_processor


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Run tiny models on one thread: on several they spend most of their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def processor():
    return tiny_processor(tiny_config())


@pytest.fixture(scope="package")
def clips(tmp_path_factory):
    """Give a folder of four small videos, clip0.mp4 to clip3.mp4, of 60 frames at 24 a second, GOP 6."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_video(folder / f"clip{number}.mp4", 60, gop_size=6, size=(48, 64 + 16 * number))
    return folder


@pytest.fixture
def write_mixture(tmp_path, clips):
    """Write annotation files and a recipe about `clips`: write(name=entries or (entries, keys), ...) -> its path."""

    def write(allowed_share=0.01, **sources):
        described = {}
        for name, given in sources.items():
            entries, keys = given if isinstance(given, tuple) else (given, {})
            is_chat = bool(entries) and "messages" in entries[0]
            file = tmp_path / f"{name}.{'jsonl' if is_chat else 'json'}"
            file.write_text("\n".join(map(json.dumps, entries)) if is_chat else json.dumps(entries))
            described[name] = {"annotations": file.name, **keys}
        recipe = tmp_path / "mixture.yaml"
        recipe.write_text(
            yaml.safe_dump(
                {"video_root": str(clips), "allowed_share": allowed_share, "sources": described}, sort_keys=False
            )
        )
        return recipe

    return write
