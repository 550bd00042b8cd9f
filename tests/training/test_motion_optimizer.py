"""Muon and AdamW as one optimizer are Muon and AdamW."""

import copy

import pytest
import torch
from torch import nn

from dynimg_vl import InputError
from dynimg_vl.training import optimizers
from dynimg_vl.training.optimizers import MUON_MOMENTUM, MuonWithAdamW, _orthogonal
from dynimg_vl.training.parameter_groups import parameter_groups

RATES = {"learning_rate": 1e-3, "muon_learning_rate": 1e-2, "axis_theta_learning_rate": 5e-3}


class Net(nn.Module):
    """Two matrices, a table, a vector, a theta and training-only heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 6)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        self.axis_theta = nn.Parameter(torch.randn(3, 6))
        self.heads = nn.ModuleDict({"flow": nn.Linear(6, 2)})

    def forward(self, ids):
        return self.heads["flow"](self.body(self.embed(ids)) + self.axis_theta.sum(0))


def groups_of(net):
    decayed = [name for name, value in net.named_parameters() if value.ndim > 1]
    return parameter_groups(net.named_parameters(), decayed, weight_decay=0.1, **RATES)


def train(net, optimizers, steps, first=0):
    for step in range(first, first + steps):
        ids = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(step))
        net(ids).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        for parameter in net.parameters():
            parameter.grad = None


def one(net):
    return MuonWithAdamW(groups_of(net), lr=1e-3, betas=(0.9, 0.98), eps=1e-8)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_muon_gets_the_matrices_of_the_layers_and_nothing_else():
    net = Net()
    chosen = [each for group in groups_of(net) if group["algorithm"] == "muon" for each in group["params"]]
    assert {id(each) for each in chosen} == {id(net.body[0].weight), id(net.body[2].weight)}


def muon_and_adamw(twin):
    """Make the two optimizers by themselves."""
    matrices = [twin.body[0].weight, twin.body[2].weight]
    muon = torch.optim.Muon(matrices, lr=1e-2, momentum=MUON_MOMENTUM, weight_decay=0.1, adjust_lr_fn="original")
    plain = [twin.embed.weight, twin.heads["flow"].weight]
    vectors = [twin.body[0].bias, twin.body[2].bias, twin.heads["flow"].bias]
    adamw = torch.optim.AdamW(
        [
            {"params": plain, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
            {"params": [twin.axis_theta], "weight_decay": 0.0, "lr": 5e-3},
        ],
        lr=1e-3,
        betas=(0.9, 0.98),
    )
    return [muon, adamw]


def test_it_steps_as_the_two_do_by_themselves(monkeypatch):
    monkeypatch.setattr(optimizers, "multiplies_bfloat16", lambda: True)
    net, twin = Net(), Net()
    before = copy.deepcopy(net)
    train(net, [one(net)], 5)
    train(twin, muon_and_adamw(twin), 5)
    assert same(net, twin)
    assert not any(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


def test_without_bfloat16_products_its_muon_is_torchs_but_for_rounding(monkeypatch):
    monkeypatch.setattr(optimizers, "multiplies_bfloat16", lambda: False)
    net, twin = Net(), Net()
    optimizer, (muon, _) = one(net), muon_and_adamw(twin)
    for step in range(5):
        # Of full rank, unlike the gradients of so small a net: what is next to nothing is rounding in bfloat16.
        generator = torch.Generator().manual_seed(step)
        for number in (0, 2):
            gradient = torch.randn(net.body[number].weight.shape, generator=generator)
            net.body[number].weight.grad, twin.body[number].weight.grad = gradient, gradient.clone()
        optimizer.step()
        muon.step()
    pairs = [(net.body[number].weight, twin.body[number].weight) for number in (0, 2)]
    # An update moves each singular value by about the rate, 0.01; bfloat16 has 8 bits.
    assert all(0 < (a - b).abs().max() < 5 * 0.01 * 2**-4 for a, b in pairs)


def test_the_float32_iteration_brings_all_singular_values_near_one():
    torch.manual_seed(3)
    for shape in ((12, 5), (5, 12), (8, 8)):
        matrix = torch.randn(shape)
        found = _orthogonal(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.5
        assert values.max() < 1.5
        # Its singular vectors are those of the matrix: the product with the nearest orthogonal one is symmetric.
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ found @ v.T
        assert torch.allclose(inner, inner.T, atol=1e-4)


def test_its_state_goes_to_a_file_and_back(tmp_path):
    straight, halves = Net(), Net()
    train(straight, [one(straight)], 6)
    optimizer = one(halves)
    train(halves, [optimizer], 3)
    torch.save([halves.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    taken_up = Net()
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    taken_up.load_state_dict(weights)
    other = one(taken_up)
    other.load_state_dict(state)
    train(taken_up, [other], 3, first=3)
    assert same(straight, taken_up)


def test_a_schedule_moves_the_rates_of_both():
    net, twin = Net(), Net()
    optimizer = one(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    halved = groups_of(twin)
    for group in halved:
        group["lr"] *= 0.5
    train(net, [optimizer], 1)
    scheduler.step()
    train(net, [optimizer], 1, first=1)
    train(twin, [MuonWithAdamW(halved, betas=(0.9, 0.98))], 2)
    assert same(net, twin)


def test_a_part_without_gradient_stays_as_it_is():
    net = Net()
    before = net.embed.weight.detach().clone()
    optimizer = one(net)
    net.body(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(net.embed.weight, before)


def test_it_needs_something_for_both_to_do(monkeypatch):
    net = Net()
    with pytest.raises(InputError, match="take adamw_torch"):
        MuonWithAdamW([group for group in groups_of(net) if group["algorithm"] == "adamw"])
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"torch 2.9 or later"):
        one(net)
