"""Fully connected layers by slices, against torch's own layers under plain autograd."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from rulesearch.errors import LearnerError
from rulesearch.outer import features, relu_layers
from rulesearch.outer.features import extract, mlp_features
from rulesearch.outer.relu_layers import ReluLayers

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = (5, 7, 4, 9)


@pytest.fixture(params=[1, 4, 13, 800])
def by_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of one example and of some; of all at once plain autograd has them."""
    for module in (relu_layers, features):
        monkeypatch.setattr(module, "ROWS", request.param)


def layers() -> ReluLayers:
    g = torch.Generator().manual_seed(1)
    found = mlp_features(SIZES, g).double()
    assert isinstance(found, ReluLayers)
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return found


def by_hand(module: ReluLayers, x: Tensor) -> Tensor:
    """The equation, layer by layer."""
    parameters = list(module.parameters())
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        x = (x @ weight.T + bias).clamp(min=0)
    return x


def examples() -> tuple[Tensor, Tensor]:
    """Thirteen examples, and what their activations count for."""
    g = torch.Generator().manual_seed(2)
    x, weights = (torch.randn(13, n, generator=g, dtype=torch.float64) for n in (5, 9))
    return x, weights


@pytest.mark.usefixtures("by_rows")
@pytest.mark.parametrize("frozen", [(), (0,), (0, 1, 3), (4, 5), (2,)])
@pytest.mark.parametrize("wants_x", [False, True])
def test_gradients_are_those_of_the_equation(frozen: tuple[int, ...], wants_x: bool) -> None:
    """Of weights, biases and examples, whichever of them are wanted."""
    module, (x, weights) = layers(), examples()
    x.requires_grad_(wants_x)
    parameters = list(module.parameters())
    for k in frozen:
        parameters[k].requires_grad_(False)
    wanted = [p for p in [x, *parameters] if p.requires_grad]
    expected = torch.autograd.grad((by_hand(module, x) * weights).sum(), wanted)
    found = module(x)
    torch.testing.assert_close(found, by_hand(module, x), rtol=1e-12, atol=1e-14)
    actual = torch.autograd.grad((found * weights).sum(), wanted)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("by_rows")
def test_gradients_are_finite_differences() -> None:
    module, (x, _) = layers(), examples()
    assert torch.autograd.gradcheck(
        lambda *parameters: torch.func.functional_call(
            module, dict(zip(dict(module.named_parameters()), parameters, strict=True)), x
        ),
        tuple(module.parameters()),
    )


@pytest.mark.usefixtures("by_rows")
def test_layers_below_many_lifetimes_are_the_same_layers() -> None:
    """Whether slices are theirs or, in a chain with other modules, those of all."""
    module, (x, weights) = layers(), examples()
    parameters = list(module.parameters())
    expected = torch.autograd.grad((by_hand(module, x) * weights).sum(), parameters)
    for chain in (module, nn.Sequential(module), nn.Sequential(nn.Identity(), module)):
        seen = extract(chain, x.reshape(1, 13, 5))
        assert seen.shape == (1, 13, 9)
        actual = torch.autograd.grad((seen[0] * weights).sum(), parameters)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-13)


def test_what_no_one_wants_is_not_differentiated() -> None:
    module, (x, _) = layers(), examples()
    module.requires_grad_(False)
    assert not module(x).requires_grad
    with torch.no_grad():
        assert not layers()(x).requires_grad


@pytest.mark.parametrize(
    "others",
    [
        (),
        (nn.Linear(2, 3),),
        (nn.ReLU(), nn.Linear(2, 3)),
        (nn.Linear(2, 3), nn.Tanh()),
        (nn.Linear(2, 3, bias=False), nn.ReLU()),
    ],
)
def test_other_layers_are_refused(others: tuple[nn.Module, ...]) -> None:
    """What would otherwise pass through relu unasked."""
    with pytest.raises(LearnerError, match="use Sequential for"):
        ReluLayers(*others)
    with pytest.raises(LearnerError, match="in turn, not Linear;"):
        layers()[:1]


def test_they_are_made_sliced_and_named_as_a_sequence() -> None:
    module = layers()
    shapes = {k: tuple(p.shape) for k, p in module.named_parameters()}
    expected = {
        f"{2 * k}.{part}": shape
        for k, (n_in, n_out) in enumerate(pairwise(SIZES))
        for part, shape in (("weight", (n_out, n_in)), ("bias", (n_out,)))
    }
    assert shapes == expected
    (x, _) = examples()
    torch.testing.assert_close(module[2:](module[:2](x)), module(x))
