"""Benchmarks answered by a real, tiny model: the whole way from official files to a score."""

import json
import math

import pytest
import torch

import miniature
from dynimg_vl.evaluation.items import read_answered
from dynimg_vl.evaluation.predict import Settings, predict_task
from dynimg_vl.evaluation.prompts import Prompt
from dynimg_vl.evaluation.tasks import find_task
from dynimg_vl.evaluation.tasks.mvbench import FILES
from dynimg_vl.inference.local import LocalEngine
from tiny import tiny_model, tiny_processor, tiny_tokenizer

MVBENCH = find_task("mvbench")
SHORT = Prompt("{question}\n{options}", prefix="Best: (", max_new_tokens=3)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return tiny_model(text={"vocab_size": len(tiny_tokenizer()), "max_position_embeddings": 2048}).eval()


@pytest.fixture(scope="module")
def mvbench(tmp_path_factory):
    """Give MVBench with one question a task, an unreadable video among them."""
    data = miniature.choices_of(tmp_path_factory.mktemp("data"), FILES.subtasks, num=2)
    (data / "video/nturgbd/fine_grained_pose0.mp4").write_text("this is no video")
    return data


def engine_of(model, **options):
    return LocalEngine(model, tiny_processor(model.config), name="tiny", **options)


def predictions(folder):
    lines = (folder / "mvbench" / "predictions.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def test_every_kind_of_question_reaches_the_model(tmp_path, model, mvbench):
    outcome = predict_task(MVBENCH, mvbench, engine_of(model), tmp_path, Settings(prompt=SHORT))
    assert {name: outcome.counts[name] for name in ("answered", "failed", "missing")} == {
        "answered": 19, "failed": 1, "missing": 20,
    }  # fmt: skip
    by_id = {one.item.id: one for one in read_answered(tmp_path / "mvbench")}
    assert "fine_grained_pose0" in by_id["mvbench/fine_grained_pose/0"].predictions[0].error
    bounded = by_id["mvbench/action_sequence/0"].predictions[0]
    assert bounded.usage["new"] <= 3
    assert bounded.usage["visual"] > 0
    header = json.loads((tmp_path / "mvbench" / "run.json").read_text())
    assert header["engine"]["weights_sha256"]
    assert header["engine"]["versions"]["torch"]


@pytest.mark.parametrize("mode", ["generate", "likelihood-text"])
def test_the_batch_size_changes_nothing(tmp_path, model, mvbench, mode):
    settings = Settings(mode=mode, prompt=SHORT, limit=1)
    found = []
    for size in (1, 7):
        predict_task(MVBENCH, mvbench, engine_of(model, batch_size=size), tmp_path / str(size), settings)
        found.append(predictions(tmp_path / str(size)))
    assert [row["text"] for row in found[0]] == [row["text"] for row in found[1]]


def test_the_likeliest_option_is_chosen(tmp_path, model, mvbench):
    predict_task(MVBENCH, mvbench, engine_of(model), tmp_path, Settings(mode="likelihood", prompt=SHORT))
    verdicts = [json.loads(line) for line in (tmp_path / "mvbench" / "verdicts.jsonl").read_text().splitlines()]
    chosen = {row["id"]: row["chosen"] for row in verdicts}
    rows = [row for row in predictions(tmp_path) if row["error"] is None]
    assert len(rows) == 19
    for row in rows:
        assert len(row["scores"]) == len(row["request"]["choices"])
        assert all(math.isfinite(score) and score < 0 for score in row["scores"])
        assert chosen[row["id"]] == row["scores"].index(max(row["scores"]))


def test_open_ended_answers_of_gifs(tmp_path, model):
    videos = miniature.open_ended(tmp_path, "tgif", "gifs", [("a", "what?", "x", "1"), ("b", "who?", "y", "1")])
    for name in "ab":
        miniature.clip(videos / f"{name}.gif")
    outcome = predict_task(find_task("tgif"), tmp_path, engine_of(model), tmp_path / "out")
    assert outcome.counts["answered"] == 2
    assert all(one.predictions[0].usage["visual"] for one in read_answered(tmp_path / "out" / "tgif"))
