"""Data sets by name: where their files are sought, fetched from, and what they hold."""

from __future__ import annotations

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import requests
import torch
from draws import generators
from small_data import REAL, idx, numbered, picture, real, write_pair

from rulesearch.errors import ConfigError, DataError
from rulesearch.tasks import FewShot, ImageData, data_sets, fetch, load
from rulesearch.tasks.files import Source, download

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits between attempts at a download."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", refuse)


def test_digits_need_nothing(offline: None) -> None:
    data = load("digits")
    assert data.images.shape == (1797, 64)
    assert data.images.dtype == torch.float32
    assert (float(data.images.min()), float(data.images.max())) == (0, 1)
    assert data.labels[:10].tolist() == list(range(10))
    assert data.shape == (8, 8)
    assert fetch("digits") == []


def test_emnist_is_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upright = np.random.default_rng(0).integers(0, 255, (47, 28, 28), np.uint8)
    stem = "emnist-balanced-train"
    write_pair(tmp_path / "emnist", stem, upright.transpose(0, 2, 1), np.arange(47))
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path))
    data = load("emnist")
    np.testing.assert_array_equal(data.images.numpy().reshape(47, 28, 28), upright)
    assert (data.n_classes, data.split) == (47, "train")
    assert "".join(data.class_names) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"


def test_files_are_sought_in_root_then_data_then_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    def put(folder: Path, value: int, stem: str = "t10k") -> None:
        write_pair(folder, stem, np.full((1, 28, 28), value), np.array([value]))

    def label(**options: Any) -> int:
        return int(load("mnist", **options).labels[0])

    put(tmp_path / "cache" / "mnist", 1)
    assert label() == 1
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"RULESEARCH_DATA: '.*' is not a folder"):
        label()
    put(tmp_path / "data", 2)
    assert label() == 2
    put(tmp_path / "data" / "mnist", 3)
    assert label() == 3
    put(tmp_path / "root", 4)
    assert label(root=tmp_path / "root") == 4
    put(tmp_path / "root", 5, "train")
    assert label(root=tmp_path / "root") == 5
    assert label(root=tmp_path / "root", split="test") == 4
    assert load("mnist", root=tmp_path / "root").split == "train"
    # MNIST's files must not pass for Fashion-MNIST's, which bear the same names.
    with pytest.raises(DataError, match="'fashion_mnist' is not at hand"):
        load("fashion_mnist")
    assert {info.name: info.found for info in data_sets()} == {
        "digits": "bundled with scikit-learn",
        "emnist": None,
        "mnist": str(tmp_path / "data" / "mnist"),
        "fashion_mnist": None,
        "omniglot": None,
        "image_folder": None,
    }


def test_unpacked_files_do(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((1, 28, 28))))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([7])))
    assert load("mnist", root=tmp_path).labels.tolist() == [7]


def test_omniglot_has_bright_ink(tmp_path: Path) -> None:
    drawing = np.full((105, 105), 255, np.uint8)
    drawing[:, :15] = 0  # 4 of 28 columns are ink
    with zipfile.ZipFile(tmp_path / "images_evaluation.zip", "w") as archive:
        for character in ("Greek/character01", "Latin/character01"):
            archive.writestr(f"images_evaluation/{character}/1_01.png", picture(drawing, "1"))
    data = load("omniglot", root=tmp_path, split="evaluation")
    assert data.class_names == ("Greek/character01", "Latin/character01")
    image = data.images[0].view(28, 28)
    assert (image[:, :4] == 255).all()
    assert (image[:, 4:] == 0).all()
    assert load("omniglot", root=tmp_path, split="evaluation", size=7).images.shape == (2, 49)


def test_image_folders_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, value in (("train", 1), ("test", 2)):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            archive.writestr(f"{split}/cat/0.png", picture(value))
    data = load("image_folder", root=tmp_path, split="test", size=3)
    assert data.images.tolist() == [[2] * 9]
    assert (data.class_names, data.split) == (("cat",), "test")
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path))
    assert load("image_folder", root="train.zip").images[0, 0] == 1
    with pytest.raises(DataError, match="there is no"):
        load("image_folder", root=tmp_path, split="validation")


def test_offline_the_message_says_what_to_put_where(
    tmp_path: Path, offline: None, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = {
        "emnist": (
            "emnist-balanced-train-images-idx3-ubyte.gz",
            "emnist-balanced-train-labels-idx1-ubyte.gz",
            "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
        ),
        "mnist": (
            "train-images-idx3-ubyte.gz",
            "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
        ),
        "omniglot": (
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
            "images_background.zip",
        ),
    }
    for name, parts in expected.items():
        with pytest.raises(DataError) as error:
            FewShot(name)
        message = str(error.value)
        assert message.startswith(f"data set '{name}' is not at hand")
        assert "\n" not in message
        places = ("RULESEARCH_DATA", f"{name}/", str(tmp_path / "cache" / name))
        for part in (*parts, *places, "ConnectionError"):
            assert part in message
    assert "Failed" not in capfd.readouterr().err


def test_downloads_are_checked_cached_and_unzipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inner/b.gz", b"member")
    published = {"https://host/a.gz": b"plain", "https://host/b.zip": buffer.getvalue()}
    calls: list[str] = []

    def serve(self: object, url: str, output_file: object, *args: object, **kwargs: object) -> None:
        calls.append(url)
        Path(str(output_file)).write_bytes(published[url])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", serve)
    a, b = (hashlib.md5(content).hexdigest() for content in published.values())
    sources = [
        Source("a.gz", "https://host/a.gz", a),
        Source("b.gz", "https://host/b.zip", b, "inner/b.gz"),
    ]
    paths = download("set", sources)
    assert [path.read_bytes() for path in paths] == [b"plain", b"member"]
    assert all(path.is_relative_to(tmp_path / "cache" / "set") for path in paths)
    assert download("set", sources) == paths
    assert calls == list(published)
    with pytest.raises(DataError, match="does not match its checksum"):
        download("other", [Source("a.gz", "https://host/a.gz", b)])
    assert len(calls) == 2 + 3  # two more attempts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "emmist"}, "unknown data set 'emmist'; did you mean 'emnist'?"),
        ({"name": "q"}, "unknown data set 'q'; there are digits, emnist, mnist"),
        ({"name": "mnist", "split": "tests"}, "has the splits train, test, not 'tests'; did you"),
        ({"name": "digits", "size": 28}, "images of 8 x 8 pixels"),
        ({"name": "digits", "root": "."}, "comes with scikit-learn and has no files in '.'"),
        ({"name": "image_folder"}, "needs root="),
    ],
)
def test_mistaken_names_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(**arguments)
    assert message in str(error.value)


def test_unsound_image_data_is_refused() -> None:
    good = numbered([2, 2])
    parts: dict[str, Any] = {
        "images": good.images,
        "labels": good.labels,
        "n_classes": 2,
        "class_names": ("a", "b"),
        "name": "x",
        "shape": (1, 1),
    }
    for change in (
        {"images": good.images.double()},
        {"labels": good.labels.int()},
        {"shape": (2, 1)},
        {"labels": good.labels[:3]},
        {"class_names": ("a", "a")},
        {"labels": good.labels - 1},
        {"images": good.images[:0], "labels": good.labels[:0]},
    ):
        with pytest.raises(DataError, match="data set 'x': "):
            ImageData(**{**parts, **change})


# --- the real files --------------------------------------------------------------------------


@real("emnist")
def test_real_emnist() -> None:
    tasks = FewShot("emnist", root=REAL, hold_out=10)
    assert (tasks.n_in, tasks.n_out, tasks.steps) == (784, 47, 250)
    assert tasks.sample(generators(0, 1)).x.shape == (250, 2, 784)
    # Upright, a T carries its bar at the top: more ink in the upper third than in the lower.
    data = tasks.data
    mean = data.images[data.labels == data.class_names.index("T")].float().mean(0).view(28, 28)
    assert mean[:9].sum() > 1.3 * mean[19:].sum()


@real("mnist")
def test_real_mnist() -> None:
    data = load("mnist", root=REAL, split="test")
    assert data.images.shape == (10_000, 784)
    assert data.labels[:5].tolist() == [7, 2, 1, 0, 4]


@real("omniglot")
def test_real_omniglot() -> None:
    data = load("omniglot", root=REAL, split="evaluation", size=14)
    assert (data.n_classes, data.images.shape) == (659, (13_180, 196))
    assert torch.equal(torch.bincount(data.labels), torch.full((659,), 20))
    assert 0.01 < data.images.float().mean() / 255 < 0.2  # ink is bright and sparse
    tasks = FewShot(data, shots=15, queries=5, hold_out=100)
    assert tasks.with_held_out().sample(generators(0)).label.min() >= 559
