"""The benchmark against the source compares what it says: a converted model and its source, at their real sizes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from dynimg_vl import DynImgForConditionalGeneration
from dynimg_vl.model.footprint import converted_config, footprint

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "against_source.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("against_source", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", ["0.5b", "7b"])
def test_both_models_have_the_weights_of_a_conversion(bench, size):
    ours, theirs = bench.configurations(size)
    with torch.device("meta"):
        model, source = DynImgForConditionalGeneration(ours), LlavaOnevisionForConditionalGeneration(theirs)
    assert model.num_parameters() == footprint(converted_config(size.upper())).num_parameters
    # What a conversion leaves: image_newline.
    assert source.num_parameters() - model.num_parameters() == ours.text_config.hidden_size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read as Linux tells it")
@pytest.mark.parametrize(("name", "num_visual"), [("dynimg", 144), ("source16", 197)])
def test_a_video_is_answered_by_both(bench, name, num_visual):
    models = bench.build("tiny", "cpu", torch.float32, layers=1)
    model, inputs = bench.inputs_for(models, name, 1)
    assert (inputs["input_ids"] == bench.VIDEO_TOKEN).sum() == num_visual
    assert set(bench.answer(model, inputs, 2)) == {
        "seconds_to_first_token",
        "cpu_seconds_to_first_token",
        "tokens_per_second",
        "peak_mib_beyond_weights",
    }
