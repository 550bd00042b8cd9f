"""The operations that the training benchmark counts by formula are those that torch counts."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynimg_vl.training.answer_logits import at_answers
from dynimg_vl.training.lora import LoraSettings, add_lora
from tiny import tiny_inputs, tiny_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def flops():
    spec = importlib.util.spec_from_file_location("flops", BENCHMARKS / "flops.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(model, inputs, *, backward):
    with FlopCounterMode(display=False) as counter:
        loss = model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("num_dynimgs", [1, 3])
@pytest.mark.parametrize("layer", [-1, -2])
def test_the_formula_counts_what_torch_counts(flops, num_dynimgs, layer):
    model = tiny_model(vision_feature_layer=layer).train()
    model.set_attn_implementation("eager")
    inputs = tiny_inputs(model.config, num_dynimgs=num_dynimgs)
    work = flops.forward_work(model.config, num_dynimgs, inputs["input_ids"].shape[1])
    assert counted(model, inputs, backward=False) == work.forward
    assert counted(model, inputs, backward=True) == work.step(is_lora=False)


def test_logits_at_answers_alone_are_counted(flops):
    model = tiny_model().train()
    model.set_attn_implementation("eager")
    inputs = tiny_inputs(model.config)
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    with FlopCounterMode(display=False) as counter:
        model(**at_answers({**inputs, "labels": labels}), use_cache=False).loss.backward()
    work = flops.forward_work(model.config, 2, labels.shape[1], 3)
    assert counter.get_total_flops() == work.step(is_lora=False)


def test_under_lora_weights_have_no_gradients(flops):
    model = tiny_model().train()
    model.set_attn_implementation("eager")
    inputs = tiny_inputs(model.config)
    work = flops.forward_work(model.config, 2, inputs["input_ids"].shape[1])
    adapted = add_lora(model, LoraSettings(r=1, target_modules=("q_proj",), dropout=0.0))
    # One adapter of rank 1 a layer: forward, and gradients of its input and weights.
    text = model.config.text_config
    adapters = 3 * text.num_hidden_layers * 2 * inputs["input_ids"].shape[1] * 2 * text.hidden_size
    assert counted(adapted, inputs, backward=True) == work.step(is_lora=True) + adapters


def test_the_measured_peak_is_a_speed(flops):
    peak = flops.measured_peak(torch.device("cpu"), torch.float32, sizes=(64,), repetitions=2)
    assert 1e6 < peak < 1e16
    assert flops.known_peak(torch.device("cpu"), torch.bfloat16) is None
