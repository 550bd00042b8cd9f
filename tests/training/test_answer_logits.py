"""Logits at answers alone give the loss and the gradients of all logits."""

import pytest
import torch

from dynimg_vl.training.answer_logits import at_answers
from runs import samples_about_clips, train_here
from tiny import tiny_inputs, tiny_model

pytest_plugins = ["run_fixtures"]


def loss_and_gradients(model, inputs, **more):
    model.zero_grad()
    loss = model(**inputs, **more).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("num_items", [None, torch.tensor(7)])
def test_the_loss_and_its_gradients_are_the_same(num_items):
    model = tiny_model(theta=0.05).train()
    inputs = tiny_inputs(model.config, after=8)
    inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -6:-3] = inputs["input_ids"][0, -6:-3]
    labels[1, -4:] = inputs["input_ids"][1, -4:]
    inputs["labels"] = labels
    short = at_answers(inputs)
    assert short["logits_to_keep"].tolist() == [labels.shape[1] - back for back in (7, 6, 5, 4, 3, 2)]
    expected, gradients = loss_and_gradients(model, inputs, num_items_in_batch=num_items)
    loss, found = loss_and_gradients(model, short, num_items_in_batch=num_items)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_batch_without_an_answer_has_no_logits():
    labels = torch.full((2, 5), -100)
    assert at_answers({"labels": labels})["shift_labels"].shape == (2, 0)


def test_the_trainer_asks_for_no_other(recipe_of, monkeypatch):
    sizes = []
    original = torch.nn.Linear.forward

    def forward(self, hidden):
        if self.out_features == 128:  # the vocabulary
            sizes.append(hidden.shape[1])
        return original(self, hidden)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    train_here(recipe_of(samples_about_clips(8), max_steps=2))
    assert len(sizes) == 2
    assert max(sizes) < 16  # a sample has 32 visual tokens and up to 5 letters of an answer
