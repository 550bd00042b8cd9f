"""A new user's path by docs/training.md: own videos and a JSONL to an adapter on the embedded model, then ask it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynimg_vl.answering import Answerer, embedded_model
from dynimg_vl.cli.app import main
from dynimg_vl.model.pretrained import load_pretrained
from dynimg_vl.motion.files import write_clip
from dynimg_vl.training.data.annotations import read_annotations
from runs import weights

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "training.md").read_text()
SECTION = DOCS.partition("\n## Your own videos\n")[2].partition("\n## ")[0]
QUESTION = "Is the gate open?"
ANSWERS = {True: "Yes, the gate is open.", False: "No, the gate is closed."}


def gate_frames(is_open, seed, num=24, height=96, width=128):
    """Draw a board across the way (red) or folded up by its post (green), before a patchwork; something passes by."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(60, 160, (3, 4, 1)) + rng.integers(-25, 25, (3, 4, 3))
    ground = np.kron(colours, np.ones((height // 3, width // 4, 1)))
    left, top = int(rng.uniform(0.1, 0.3) * width), int(rng.uniform(0.3, 0.5) * height)
    rows, columns = (slice(top - 24, top + 24), slice(left, left + 16))
    if not is_open:
        rows, columns = slice(top, top + 20), slice(left, left + 64)
    x, speed = rng.uniform(0, width), rng.uniform(-3, 3)
    for number in range(num):
        pixels = ground + rng.normal(0, 4, ground.shape)
        pixels[rows, columns] = (30, 200, 50) if is_open else (220, 30, 30)
        at = int(x + speed * number) % (width - 12)
        pixels[height - 14 : height - 4, at : at + 12] = 230
        yield np.clip(pixels, 0, 255).astype(np.uint8)


def write_gates(folder, name, num, seed):
    """Write clips of open and closed gates in turn; returns path and answer of each."""
    clips = []
    for number in range(num):
        path = folder / f"{name}{number}.mp4"
        write_clip(path, gate_frames(number % 2 == 0, seed + number))
        clips.append((path, ANSWERS[number % 2 == 0]))
    return clips


def write_lines(path, clips):
    """Write the line of the docs for each clip, with its own video and answer."""
    (line,) = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)
    rows = []
    for clip, answer in clips:
        row = json.loads(line)
        assert row["messages"][0]["content"][1]["text"] == QUESTION
        row["messages"][0]["content"][0]["video"] = clip.name
        row["messages"][1]["content"] = answer
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows) + "\n")


def commands():
    """Give the commands that the docs show, in order."""
    return re.findall(r"^dynimg-vl .*$", SECTION, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder to work in that has the recipes, as a clone has."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, *more):
    """Run a command of the docs in this process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(command)[1:], *more])
    return stop.value.code


def right_answers(model, clips):
    answerer = Answerer.from_pretrained(model, device="cpu")
    said = [answerer.start(answerer.look(clip)).ask(QUESTION).text for clip, _ in clips]
    return sum(words == answer for words, (_, answer) in zip(said, clips, strict=True)), said


def test_the_documented_commands_train_an_adapter_and_ask_it(folder, capsys):
    write_lines(folder / "my_videos.jsonl", write_gates(folder, "gate", 2, seed=0))
    write_gates(folder, "new", 1, seed=9)
    (folder / "new0.mp4").rename(folder / "new.mp4")
    train, ask = commands()
    assert run(train, "--max_steps", "2", "--per_device_train_batch_size", "2", "--disable_tqdm", "true") == 0
    assert "my_adapter/model: 2 steps" in capsys.readouterr().out
    assert run(ask) == 0
    assert capsys.readouterr().out.strip()
    saved = weights(folder / "my_adapter" / "model")
    assert any("embed_tokens" in name for name in saved)
    # The embedded model may lie elsewhere by now: the package was moved, or the adapter given away.
    settings = folder / "my_adapter" / "model" / "adapter_config.json"
    values = json.loads(settings.read_text())
    assert Path(values["base_model_name_or_path"]) == embedded_model().resolve()
    settings.write_text(json.dumps({**values, "base_model_name_or_path": "/elsewhere/dynimg_vl/embedded"}))
    loaded, _ = load_pretrained("my_adapter/model", device="cpu")
    projector = next(value for name, value in saved.items() if name.endswith("projector.linear_1.weight"))
    assert (loaded.model.multi_modal_projector.linear_1.weight == projector).all()


def test_the_line_of_the_docs_is_read_as_one_video_and_one_answer(folder):
    write_lines(folder / "my_videos.jsonl", [(folder / "gate0.mp4", ANSWERS[True])])
    (sample,) = read_annotations(folder / "my_videos.jsonl", "mine")
    assert [clip.path for clip in sample.clips] == ["gate0.mp4"]
    assert sample.text_of("assistant") == ANSWERS[True]


def test_a_folder_called_embedded_is_not_the_model_in_the_package(folder):
    (folder / "embedded").mkdir()
    model, _ = load_pretrained("embedded", device="cpu")
    assert model.config.text_config.hidden_size == 128


@pytest.mark.slow
def test_ten_videos_teach_what_the_embedded_model_does_not_know(folder):
    write_lines(folder / "my_videos.jsonl", write_gates(folder, "gate", 10, seed=0))
    unseen = write_gates(folder, "unseen", 10, seed=1000)
    unseen[0][0].rename(folder / "new.mp4")
    unseen[0] = (folder / "new.mp4", unseen[0][1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for command in commands():
        words = [sys.executable, "-m", "dynimg_vl", *shlex.split(command)[1:]]
        result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout == f"{ANSWERS[True]}\n"
    num_right, said = right_answers(folder / "my_adapter" / "model", unseen)
    assert num_right >= 9, said
    assert right_answers(None, unseen)[0] == 0
