"""Freeze what others build on: the public names, the help texts, and what an import costs."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import dynimg_vl
from dynimg_vl.cli.app import dynimg_vl as command

GOLDEN = Path(__file__).parent / "golden"
PUBLIC_NAMES = {
    "DynImgConfig", "DynImgForConditionalGeneration", "DynImgLayout", "DynImgModel", "DynImgProcessor",
    "DynImgVideoProcessor", "DynImgs", "FrameGroup", "FrameIndex", "GroupAugment", "InputError", "VideoError",
    "VideoWarning", "answer", "compose_dynimgs", "dynimg_position_ids", "embedded_model", "layout_coordinates",
    "load_dynimgs", "read_frames", "render_dynimgs", "select_frame_groups",
}  # fmt: skip


def test_the_public_names_are_frozen():
    assert set(dynimg_vl.__all__) == PUBLIC_NAMES
    assert set(dir(dynimg_vl)) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_each_public_name_exists_and_is_documented(name):
    found = getattr(dynimg_vl, name)
    docstring = inspect.getdoc(found)
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        dynimg_vl.no_such_name  # noqa: B018


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_and_help_load_nothing_heavy():
    code = (
        "import sys, dynimg_vl, dynimg_vl.cli.app;"
        "print([m for m in ('torch', 'transformers', 'av', 'numpy', 'PIL') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_show_needs_no_torch(tmp_path, ball_video):
    code = (
        "import sys; from dynimg_vl.cli.app import _run;"
        f"code = _run(['show', {str(ball_video)!r}, '-o', {str(tmp_path / 'out.png')!r}, '--overlay']);"
        "print(code, 'torch' in sys.modules)"
    )
    assert run_python(code).splitlines()[-1] == "0 False"


def verbs(group=command, path=()):
    """Yield the words of every verb, groups and their verbs included."""
    yield path
    for name, verb in sorted(getattr(group, "commands", {}).items()):
        yield from verbs(verb, (*path, name))


@pytest.mark.parametrize("path", list(verbs()), ids=" ".join)
def test_help_texts_are_frozen(path):
    """Golden files are rewritten by: python tests/test_public_api.py."""
    assert help_of(path) == golden_of(path).read_text()


def golden_of(path):
    return GOLDEN / f"{'-'.join(('help', *path))}.txt"


def help_of(path):
    # A fixed width, so that the terminal of whoever runs the tests has no say.
    return CliRunner().invoke(command, [*path, "--help"], terminal_width=100).output


if __name__ == "__main__":
    for words in verbs():
        golden_of(words).write_text(help_of(words))
