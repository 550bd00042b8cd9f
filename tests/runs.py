"""Tiny runs for the tests of training: a model and a recipe on disk, started in this process or in others."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from tiny import tiny_model, tiny_processor

TRAINING = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "axis_theta_learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 7,
}


def save_tiny_model(folder, **fields):
    """Write a tiny random model with its processor."""
    model = tiny_model(theta=0.05, **fields)
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder


def write_recipe(folder, model, data, output="run", video_root=None, **training):
    """Write a recipe; a value of None removes a key."""
    values = {**TRAINING, "output_dir": str(folder / output), **training}
    recipe = {
        "model": {"path": str(model), "dtype": "float32"},
        "data": {"path": str(data), "video_root": str(video_root or Path(data).parent)},
        "training": {key: value for key, value in values.items() if value is not None},
    }
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def samples_about_clips(num, text_every=0):
    """Make samples about four clips; every so many-th is text alone."""
    found = []
    for number in range(num):
        messages = [
            {"role": "user", "content": [{"type": "video", "video": f"clip{number % 4}.mp4"}, text(f"What? {number}")]},
            {"role": "assistant", "content": [text("a" * (1 + number % 5))]},
        ]
        if text_every and number % text_every == 0:
            messages[0]["content"] = [text(f"Say {number}.")]
        found.append({"messages": messages})
    return found


def text(words):
    return {"type": "text", "text": words}


def train_here(recipe, **overrides):
    """Run a recipe in this process; returns its `TrainResult`."""
    from dynimg_vl.training.recipe import TrainRecipe
    from dynimg_vl.training.run import train

    return train(TrainRecipe.from_file(Path(recipe), overrides))


def command(recipe, *words, num_processes=1):
    """Give the command that runs a recipe in processes of its own."""
    start = [sys.executable, "-m", "dynimg_vl"]
    if num_processes > 1:
        with contextlib.closing(socket.socket()) as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)]
        start += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "dynimg_vl"]
    return [*start, "train", str(recipe), *map(str, words)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def train_there(recipe, *words, num_processes=1, expect=0):
    """Run a recipe in processes of its own to its end; returns what they wrote to stderr."""
    result = subprocess.run(
        command(recipe, *words, num_processes=num_processes),
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == expect, result.stderr[-4000:]
    return result.stderr


def die(*_, **__):
    """End the process that calls this, as the kernel does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def curve(folder):
    """Read the losses of a finished run: step -> loss."""
    state = json.loads((Path(folder) / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


def weights(folder):
    """Read the weights of a model or an adapter; copies, for what is loaded is a window on the file."""
    from safetensors.torch import load_file

    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: value.clone() for path in files for name, value in load_file(path).items()}


def same_weights(one, other):
    """Tell whether two sets of weights are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def after_step(monkeypatch, step, act):
    """Do something in the midst of a step of the runs of this test; `act` gets the trainer."""
    from dynimg_vl.training.trainer import DynImgTrainer

    original = DynImgTrainer.training_step
    done = []

    def training_step(self, model, inputs, *args, **kwargs):
        if self.state.global_step == step - 1 and not done:
            done.append(step)
            act(self)
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DynImgTrainer, "training_step", training_step)


def stop_after(monkeypatch, step):
    """End the runs of this test by a signal in the midst of a step."""
    after_step(monkeypatch, step, lambda _: signal.raise_signal(signal.SIGTERM))


def group_lives(leader):
    """Tell whether any process of the group of `leader` is there."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
