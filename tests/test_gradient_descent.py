"""Learning by gradient descent on batches of images, and Adam with its root's epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from draws import generator
from torch import Tensor, nn

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.networks import ConvNet
from rulesearch.networks.layout import channels_last
from rulesearch.outer.bilevel import SGD, Adam, Batches, ComplexSynapse, Descent, classifier_problem
from rulesearch.tasks import ImageData

pytestmark = pytest.mark.usefixtures("one_thread")

Named = Mapping[str, Tensor]


def random_images(count: int, shape: tuple[int, ...] = (1, 8, 8), classes: int = 3) -> ImageData:
    images = torch.randint(256, (count, torch.Size(shape).numel()), generator=generator(1))
    names = tuple(map(str, range(classes)))
    labels = torch.arange(count) % classes
    return ImageData(images.to(torch.uint8), labels, classes, names, "random", shape)


NETWORK = ConvNet((1, 8, 8), 3, channels=(16, 5), hidden=(6,), born="uniform")


def as_module(weights: Named, network: int) -> nn.Sequential:
    """The same network of torch's own layers."""
    blocks: list[nn.Module] = []
    for conv in (nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 5, 3, padding=1)):
        blocks += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(), nn.MaxPool2d(2)]
    full = [nn.Flatten(), nn.Linear(20, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
    module = nn.Sequential(*blocks, *full)
    parameters = list(module.parameters())
    assert len(parameters) == len(weights)
    with torch.no_grad():
        for parameter, value in zip(parameters, weights.values(), strict=True):
            parameter.copy_(value[network])
    return module


def test_descending_on_batches_is_training_a_module() -> None:
    """Two networks side by side, with weight decay and a nudge, beside torch's own training."""
    data, steps, beta, decay = random_images(40), 7, 0.5, 0.3
    born = NETWORK.init([generator(2), generator(3)])
    rows = torch.stack([torch.randperm(40, generator=generator(k)) for k in (4, 5)])
    learn, judge = Batches(data, rows[:, :20], 6, shuffle=(0, 0)), Batches(data, rows[:, 20:], 10)
    task = classifier_problem(NETWORK, born, learn, judge)
    fixed = {f"lambda.{name}": torch.tensor(decay) for name in born}
    problem = ComplexSynapse(task, fixed)
    found = Descent(steps, SGD(0.05, 0.9, nesterov=True))(problem, {}, problem.start({}), beta, 2)
    for network in range(2):
        module = as_module(born, network)
        optimiser = torch.optim.SGD(
            module.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=decay
        )
        for step in range(2, 2 + steps):
            optimiser.zero_grad()
            loss = torch.zeros(())
            for source, weight in ((learn, 1.0), (judge, beta)):
                x, label = source(step)
                logits = module(x[network].reshape(-1, 1, 8, 8))
                loss = loss + weight * nn.functional.cross_entropy(logits, label[network])
            loss.backward()
            optimiser.step()
        for parameter, (name, value) in zip(module.parameters(), found.items(), strict=True):
            torch.testing.assert_close(value[network], parameter.detach(), msg=name)


def test_an_epoch_sees_every_image_once() -> None:
    data = random_images(12)
    rows = torch.stack([torch.arange(10), torch.arange(2, 12)])
    batches = Batches(data, rows, 5, shuffle=(3, 1))
    table = {tuple(data.examples(torch.tensor(k), torch.float32).tolist()): k for k in range(12)}

    def seen(step: int) -> list[list[int]]:
        return [[table[tuple(image.tolist())] for image in images] for images in batches(step).x]

    epochs = [[a + b for a, b in zip(seen(2 * k), seen(2 * k + 1), strict=True)] for k in range(2)]
    for epoch in epochs:
        assert [sorted(images) for images in epoch] == rows.tolist()
    assert epochs[0] != epochs[1]
    assert seen(1) == seen(1)
    again = Batches(data, rows, 5, shuffle=(3, 2))
    assert not torch.equal(again(0).label, batches(0).label) or not torch.equal(
        again(0).x, batches(0).x
    )
    still = Batches(data, rows, 5)
    torch.testing.assert_close(still(1).x, data.examples(rows[:, 5:], torch.float32))
    torch.testing.assert_close(still(3).x, still(1).x)
    assert batches(None).x.shape == (2, 10, 64)


@pytest.mark.parametrize("size", [0, 11])
def test_batches_larger_than_the_data(size: int) -> None:
    with pytest.raises(ConfigError, match="from 1 to 10"):
        Batches(random_images(12), torch.arange(10)[None], size)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (torch.zeros(2, 10), r"rows is torch.float32 of shape \(2, 10\); give whole numbers"),
        (torch.zeros(2, 10, dtype=torch.bool), "rows is torch.bool"),
        (torch.arange(10), r"rows is torch.int64 of shape \(10,\)"),
        (torch.zeros(0, 10, dtype=torch.int64), r"rows is torch.int64 of shape \(0, 10\)"),
        (torch.tensor([[0, 1, -1, 2, 3]]), "rows run from -1 to 3; those of the data are 0 to 11"),
        (torch.arange(8, 13)[None], "rows run from 8 to 12; those of the data are 0 to 11"),
    ],
)
def test_batches_of_what_are_no_rows(rows: Tensor, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Batches(random_images(12), rows, 5)


def test_adam_with_epsilon_inside_of_the_root() -> None:
    slopes = [torch.tensor([2.0, -1e-4], dtype=torch.float64), torch.tensor([1.0, 3e-4]).double()]
    optimiser, memory = Adam(0.1, eps_root=1e-7), tuple[Tensor, ...]()
    first = second = torch.zeros(2, dtype=torch.float64)
    for step, slope in enumerate(slopes):
        change, memory = optimiser.update(slope, memory, step)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        torch.testing.assert_close(change, -0.1 * mean / ((square + 1e-7) ** 0.5 + 1e-8))


# -- the network itself --


def test_statistics_of_a_reference() -> None:
    """What is judged is normalised as torch does it in evaluation, by other images' statistics."""
    weights = NETWORK.init([generator(2)])
    shown, judged = (torch.rand(1, n, 64, generator=generator(n)) for n in (30, 4))
    module = as_module(weights, 0)
    for layer in module:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = 1.0
    module(shown.reshape(-1, 1, 8, 8))
    for layer in module:  # torch keeps the unbiased variance
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            n = 30 * (1 if isinstance(layer, nn.BatchNorm1d) else 64 if layer is module[1] else 16)
            variance: Any = layer.running_var
            variance.mul_((n - 1) / n)
    expected = module.eval()(judged.reshape(-1, 1, 8, 8))
    found = NETWORK(weights, torch.cat([shown, judged], 1), reference=30)[0, 30:]
    torch.testing.assert_close(found, expected)


def test_lenet_is_of_the_known_size() -> None:
    lenet = ConvNet((3, 32, 32), 10, (6, 16), kernel=5, padding=0, hidden=(120, 84))
    assert sum(w[0].numel() for w in lenet.init([generator(0)]).values()) == 62_458
    four = ConvNet((3, 84, 84), 5, (32,) * 4)
    assert four.init([generator(0)])["head.W"].shape == (1, 5, 800)


def test_networks_are_born_apart_and_within_bounds() -> None:
    wide = ConvNet((2, 8, 8), 50, (40,))
    pair = wide.init([generator(0), generator(1)])
    alone = wide.init([generator(1)])
    for name, value in pair.items():
        torch.testing.assert_close(value[1:], alone[name])
    for name, bound in {"conv0.W": (6 / 18) ** 0.5, "head.W": (3 / 640) ** 0.5}.items():
        assert not torch.equal(pair[name][0], pair[name][1])
        assert 0.9 * bound < pair[name].abs().max() <= bound
    assert all((pair[f"{k}.bias"] == 0).all() for k in ("conv0", "head"))
    # As torch's own layers are born, biases too: a layer sees 9 * 2 values, or 40 * 4 * 4.
    torchs = ConvNet((2, 8, 8), 50, (40,), born="uniform").init([generator(0)])
    for layer, bound in {"conv0": 18**-0.5, "head": 640**-0.5}.items():
        for part in (torchs[f"{layer}.W"], torchs[f"{layer}.bias"]):
            assert 0.85 * bound < part.abs().max() <= bound
            assert float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.3)


def test_networks_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="nothing is left of 8 x 8 pixels"):
        ConvNet((1, 8, 8), 3, (4,) * 4)
    with pytest.raises(ConfigError, match="born is one of uniform, kaiming, not 'xavier'"):
        ConvNet((1, 8, 8), 3, (4,), born="xavier")
    weights = NETWORK.init([generator(0)])
    with pytest.raises(LearnerError, match="two images or more"):
        NETWORK(weights, torch.zeros(1, 1, 64))
    with pytest.raises(LearnerError, match="two images or more"):
        NETWORK(weights, torch.zeros(1, 5, 64), reference=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_laid_channels_last_stays_so(channels: int) -> None:
    x = torch.rand(5, channels, 4, 6, generator=generator(0))
    laid = channels_last(x)
    assert torch.equal(laid, x)
    made = nn.Conv2d(channels, 7, 3)(laid)
    assert made.stride() == (2 * 4 * 7, 1, 4 * 7, 7)
