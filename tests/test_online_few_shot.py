from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import generators
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from small_data import REAL, numbered, real
from torch import Tensor

from rulesearch.errors import ConfigError, DataError
from rulesearch.tasks import (
    IMAGENET,
    FewShot,
    ImageData,
    Normalisation,
    OnlineFewShot,
    TaskBatch,
    TaskFamily,
    load,
)

pytestmark = pytest.mark.usefixtures("own_folders")


def parts(batch: TaskBatch) -> list[Tensor]:
    """Return a batch as tensors whose first dimension is the lifetime."""
    assert isinstance(batch.x, Tensor)
    return [batch.x.transpose(0, 1), batch.label.T, batch.x_query, batch.label_query]


# --- tasks -----------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_lifetimes_hold_distinct_images_and_one_label_a_class(draw: st.DataObject) -> None:
    shots, queries = draw.draw(st.integers(1, 6)), draw.draw(st.integers(1, 4))
    counts = draw.draw(
        st.lists(st.integers(shots + queries, shots + queries + 5), min_size=1, max_size=6)
    )
    ways = draw.draw(st.integers(1, len(counts)))
    order: Any = draw.draw(st.sampled_from(["continual", "iid"]))
    data = numbered(counts)
    tasks = OnlineFewShot(data, ways=ways, shots=shots, queries=queries, order=order)
    batch = tasks.sample(generators(*range(3)))
    assert batch.x.shape == (ways * shots, 3, 1)
    assert batch.x_query.shape == (3, ways * queries, 1)
    for x, label, x_query, label_query in zip(*parts(batch), strict=True):
        train, query = x[:, 0].long(), x_query[:, 0].long()
        images = train.tolist() + query.tolist()
        assert len(set(images)) == len(images)
        assert torch.bincount(label).tolist() == [shots] * ways
        assert torch.bincount(label_query).tolist() == [queries] * ways
        classes = torch.cat([data.labels[train], data.labels[query]]).tolist()
        given_labels = torch.cat([label, label_query]).tolist()
        pairs = set(zip(classes, given_labels, strict=True))
        assert len(pairs) == len(set(classes)) == ways  # one to one
        if order == "continual":
            assert (label[1:] != label[:-1]).sum() == ways - 1


def test_labels_and_classes_are_assigned_at_random() -> None:
    data = numbered([10] * 3)
    tasks = OnlineFewShot(data, ways=3, shots=1, queries=1)
    x, label, _, _ = parts(tasks.sample(generators(*range(600))))
    classes = data.labels[x[..., 0].long()]
    for rows in (classes, label):  # all 6 orders of either, and each about as often
        _, counts = rows.unique(dim=0, return_counts=True)
        assert len(counts) == 6
        assert counts.min() > 60
    _, counts = torch.cat([classes, label], 1).unique(dim=0, return_counts=True)
    assert len(counts) == 36  # and independently of each other
    images, _ = x.flatten().unique(return_counts=True)
    assert len(images) == 30


def test_iid_mixes_the_images_of_a_lifetime() -> None:
    data = numbered([30] * 2)
    label = OnlineFewShot(data, ways=2, shots=20, order="iid").sample(generators(0, 1)).label
    assert ((label[1:] != label[:-1]).sum(0) > 8).all()  # 20 expected of a random order
    assert not torch.equal(label[:, 0], label[:, 1])


@pytest.mark.parametrize("order", ["continual", "iid"])
def test_a_lifetime_depends_on_its_generator_alone(order: Any) -> None:
    tasks = OnlineFewShot("digits", order=order)
    batch = parts(tasks.sample(generators(3, 1, 4)))
    for alone, part in zip(parts(tasks.sample(generators(1))), batch, strict=True):
        assert torch.equal(alone[0], part[1])
    assert not torch.equal(batch[0][0], batch[0][1])
    g, state = generators(3), torch.random.get_rng_state()
    first, second = (parts(tasks.sample(g)) for _ in range(2))
    assert not torch.equal(first[0], second[0])  # a generator moves on
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_family_and_its_description() -> None:
    tasks = OnlineFewShot("digits", ways=3, shots=4, queries=2, hold_out=["8", 0], outputs=1000)
    assert isinstance(tasks, TaskFamily)
    assert (tasks.n_in, tasks.n_out, tasks.steps) == (64, 1000, 12)
    assert tasks.classes == (1, 2, 3, 4, 5, 6, 7, 9)
    assert tasks.name == "digits-3way-4shot-continual"
    assert repr(tasks).startswith("OnlineFewShot('digits', ways=3, shots=4, queries=2, classes=8")
    assert tasks.describe() == {
        "family": "online-few-shot",
        "data": "digits",
        "split": "all",
        "images": 1797,
        "shape": [8, 8],
        "n_classes": 10,
        "fingerprint": tasks.data.fingerprint(),
        "ways": 3,
        "shots": 4,
        "queries": 2,
        "order": "continual",
        "outputs": 1000,
        "hold_out": [0, 8],
        "held_out": False,
    }
    assert OnlineFewShot("digits").n_out == 5
    assert OnlineFewShot(tasks.data).arguments is None


def test_arguments_make_the_same_tasks_again(tmp_path: Path) -> None:
    write_images(tmp_path, {f"{c}/{i}.png": coloured(i, c, 9) for c in range(3) for i in range(4)})
    tasks = OnlineFewShot(
        "image_folder",
        root=tmp_path,
        size=2,
        colour=True,
        invert=True,
        normalise=IMAGENET,
        ways=2,
        shots=2,
        queries=1,
        order="iid",
        hold_out=1,
    )
    arguments: dict[str, Any] = json.loads(json.dumps(tasks.arguments))
    again = OnlineFewShot(**arguments)
    assert again.describe() == tasks.describe()
    for a, b in zip(*(parts(each.sample(generators(0))) for each in (again, tasks)), strict=True):
        assert torch.equal(a, b)
    plain = OnlineFewShot(**{**arguments, "normalise": None})
    assert plain.describe()["fingerprint"] != tasks.describe()["fingerprint"]


def test_held_out_classes_never_leak() -> None:
    data = numbered([8] * 7)
    for held_out, expected in ((False, {0, 1, 2, 3}), (True, {4, 5, 6})):
        tasks = OnlineFewShot(data, ways=2, shots=2, queries=2, hold_out=3, held_out=held_out)
        x, label, x_query, _ = parts(tasks.sample(generators(*range(60))))
        drawn = torch.cat([x, x_query], 1).long()
        assert set(data.labels[drawn].unique().tolist()) == expected
        assert set(label.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ways": 0}, ConfigError, "ways must be at least 1, not 0"),
        ({"shots": 0}, ConfigError, "shots must be at least 1"),
        ({"queries": -1}, ConfigError, "queries must be at least 1"),
        ({"order": "idd"}, ConfigError, "continual, iid, not 'idd'; did you mean 'iid'"),
        ({"outputs": 4}, ConfigError, "5 ways need 5 outputs, not 4"),
        ({"held_out": True}, ConfigError, "needs classes in hold_out"),
        ({"ways": 11}, DataError, "11-way tasks need 11 classes but there are 10"),
        ({"shots": 174}, DataError, r"has 174 images but shots \+ queries = 179"),
        ({"colour": True}, ConfigError, "'digits' is bright on black; colour= is for image_folder"),
        ({"invert": False}, ConfigError, "'digits' is bright on black"),
        ({"normalise": IMAGENET}, DataError, "1 means and standard deviations, .* not 3 and 3"),
        ({"normalise": (0.5, 0.5)}, ConfigError, "normalise: a pair is asked for"),
        ({"normalise": "imagenet"}, ConfigError, "not 'imagenet'"),
        ({"normalise": ((0.5,), (0.0,))}, DataError, "finite means .* positive"),
    ],
)
def test_tasks_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        OnlineFewShot("digits", **options)


@pytest.mark.parametrize("option", [{"split": "x"}, {"colour": True}, {"invert": False}])
def test_images_of_ones_own_are_not_loaded(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="invert and normalise need the name of a data set"):
        OnlineFewShot(numbered([20] * 5), **option)


def test_lifetimes_need_generators() -> None:
    with pytest.raises(ConfigError, match="at least one generator"):
        OnlineFewShot(numbered([20] * 5)).sample([])


# --- images in colour ------------------------------------------------------------------------


def coloured(red: int, green: int, blue: int, size: int = 4) -> bytes:
    return png(np.broadcast_to(np.array([red, green, blue], np.uint8), (size, size, 3)))


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_colours_come_back_channel_by_channel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    grey = np.arange(9, dtype=np.uint8).reshape(3, 3)
    clear = np.zeros((3, 3, 4), np.uint8)
    write_images(
        tmp_path,
        {"a/0.png": png(pixels[0]), "a/1.png": png(grey), "b/0.png": png(pixels[1])},
    )
    write_images(tmp_path, {"b/1.png": png(clear)})
    data = load("image_folder", root=tmp_path, size=3, colour=True)
    assert (data.shape, data.channels, data.images.shape) == ((3, 3, 3), 3, (4, 27))
    images = data.images.view(4, 3, 3, 3).numpy()
    np.testing.assert_array_equal(images[0], pixels[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(images[2], pixels[1].transpose(2, 0, 1))
    np.testing.assert_array_equal(images[1], [grey] * 3)
    assert (images[3] == 255).all()  # transparent is white
    inverted = load("image_folder", root=tmp_path, size=3, colour=True, invert=True)
    assert torch.equal(inverted.images, 255 - data.images)
    plain = load("image_folder", root=tmp_path, size=3)
    assert (plain.shape, plain.channels, plain.images.shape) == ((3, 3), 1, (4, 9))


def test_mini_imagenet_from_the_users_own_folders(tmp_path: Path) -> None:
    """Splits are folders, images of any size become colour examples, normalised."""
    for split, (first, count) in {"train": (0, 4), "val": (4, 2), "test": (6, 3)}.items():
        for c in range(first, first + count):
            for i in range(4):
                image = coloured(20 * c, 10 * i, 255, size=90 + c)
                write_images(tmp_path, {f"{split}/n{c:04}/{i}.png": image})
    options: dict[str, Any] = {"root": tmp_path, "size": 84, "colour": True, "normalise": IMAGENET}
    with pytest.raises(DataError, match="holds the splits test, train, val; choose with split="):
        OnlineFewShot("image_folder", **options)
    tasks = OnlineFewShot("image_folder", split="test", ways=3, shots=2, queries=2, **options)
    assert tasks.data.class_names == ("n0006", "n0007", "n0008")
    assert (tasks.data.shape, tasks.n_in) == ((3, 84, 84), 3 * 84 * 84)
    values = parts(tasks.sample(generators(0), torch.float64))[0].view(6, 3, -1)
    assert torch.equal(values.amin(-1), values.amax(-1))  # one colour an image
    mean, std = (torch.tensor(part, dtype=torch.float64) for part in IMAGENET)
    red, green, blue = (values[..., 0] * std + mean).T
    assert set((255 * red).round().tolist()) == {120, 140, 160}
    assert set((255 * green).round().tolist()) <= {0, 10, 20, 30}
    assert torch.allclose(blue, torch.ones(6, dtype=torch.float64))
    training = OnlineFewShot("image_folder", split="train", ways=3, shots=2, queries=2, **options)
    assert len(training.classes) == 4


def test_normalisation_goes_channel_by_channel_and_leaves_the_data(tmp_path: Path) -> None:
    images = torch.tensor([[0, 51, 255, 102], [255, 0, 51, 204]], dtype=torch.uint8)
    parts_: dict[str, Any] = {
        "images": images,
        "labels": torch.tensor([0, 0]),
        "n_classes": 1,
        "class_names": ("a",),
        "name": "bytes",
        "shape": (2, 1, 2),
    }
    data = ImageData(**parts_, normalisation=Normalisation((0.2, 0.4), (0.5, 0.1)))
    for dtype in (torch.float32, torch.float64):
        seen = data.examples(torch.tensor([[1, 0]]), dtype)
        assert seen.dtype == dtype
        expected = [[[1.6, -0.4, -2, 4], [-0.4, 0, 6, 0]]]
        assert torch.allclose(seen, torch.tensor(expected, dtype=dtype), atol=1e-6)
    floats = ImageData(**{**parts_, "images": images / 255}, normalisation=data.normalisation)
    for _ in range(2):  # the images themselves stay as they are
        assert torch.allclose(floats.examples(torch.tensor([1]), torch.float32), seen[:, 0].float())
    few = FewShot(floats, ways=1, shots=1, queries=1).sample(generators(0))
    assert parts(few)[0].max() > 1
    for shape in ((4,), (1, 2, 1, 2)):
        with pytest.raises(DataError, match=r"is not \(\[channels,\] height, width\)"):
            ImageData(**{**parts_, "shape": shape})


@pytest.mark.parametrize(("invert", "paper", "ink"), [(None, 0, 255), (False, 255, 0)])
def test_omniglot_in_either_polarity(
    tmp_path: Path, invert: bool | None, paper: int, ink: int
) -> None:
    drawing = np.full((105, 105), 255, np.uint8)
    drawing[:, :25] = 0  # 20 of 84 columns are ink
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w") as archive:
        archive.writestr("images_background/Greek/character01/1_01.png", png(drawing))
    data = load("omniglot", root=tmp_path, size=84, invert=invert)
    assert (data.split, data.shape) == ("background", (84, 84))
    image = data.images[0].view(84, 84)
    assert (image[:, :20] == ink).all()
    assert (image[:, 20:] == paper).all()
    with pytest.raises(ConfigError, match="'omniglot' is black and white"):
        load("omniglot", root=tmp_path, colour=True)


# --- the real files --------------------------------------------------------------------------


@real("omniglot")
def test_real_omniglot() -> None:
    tasks = OnlineFewShot("omniglot", root=REAL, split="evaluation", size=28, invert=False)
    assert (len(tasks.classes), tasks.n_in, tasks.n_out, tasks.steps) == (659, 784, 5, 25)
    x = parts(tasks.sample(generators(*range(20))))[0]
    assert 0.8 < x.mean() < 0.99  # ink is dark and sparse


@real("cifar10")
def test_real_cifar10_is_a_folder_in_colour() -> None:
    data = load("image_folder", root=Path(REAL) / "cifar10", split="test", size=32, colour=True)
    assert (data.images.shape, data.shape) == ((10_000, 3 * 32 * 32), (3, 32, 32))
    assert data.class_names[0] == "airplane"
    assert torch.bincount(data.labels).tolist() == [1000] * 10
    red, _, blue = (data.images.view(-1, 3, 1024)[data.labels == 0].float()).mean((0, 2))
    assert blue > red  # aeroplanes are in the sky
