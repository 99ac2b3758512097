from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import requests
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from rulesearch.errors import ConfigError, DataError
from rulesearch.tasks import FewShot, ImageData, TaskBatch, TaskFamily, data_sets, fetch, load
from rulesearch.tasks.files import Source, download
from rulesearch.tasks.idx import read_idx, read_idx_pair
from rulesearch.tasks.image_folder import read_image_folder

REAL = os.environ.get("RULESEARCH_DATA", "")
Store = Callable[[dict[str, bytes]], Path]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's folders or waits between attempts at a download."""
    monkeypatch.delenv("RULESEARCH_DATA", raising=False)
    monkeypatch.setenv("RULESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", refuse)


def idx(array: NDArray[Any]) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_pair(folder: Path, stem: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def picture(
    value: int | NDArray[Any], mode: str = "L", format: str = "PNG", size: int = 4
) -> bytes:
    array = np.full((size, size), value, np.uint8) if isinstance(value, int) else value
    buffer = BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format)
    return buffer.getvalue()


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def numbered(counts: list[int]) -> ImageData:
    """Images of one float that tells each from every other, in an order mixed over classes."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generators(0)[0])]
    return ImageData(
        images=torch.arange(len(labels), dtype=torch.float32)[:, None],
        labels=labels,
        n_classes=len(counts),
        class_names=tuple(f"c{c}" for c in range(len(counts))),
        name="numbered",
        shape=(1, 1),
    )


# --- IDX -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.booleans())
@settings(max_examples=30)
def test_idx_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], zipped: bool
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    read = read_idx(path, len(shape))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


IMAGES = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x08", "not an IDX file"),
        (idx(np.zeros(3)), "not an IDX file of unsigned bytes in 3 dimensions"),
        (b"\x00\x00\x0d\x03" + bytes(12), "begins with 00000d03"),
        (idx(IMAGES)[:-1], "is truncated: its header promises 12 bytes"),
        (idx(IMAGES) + b"x", "is too long"),
        (gzip.compress(idx(IMAGES))[:-9], "corrupt or truncated gzip"),
        (gzip.compress(idx(IMAGES))[:-8] + bytes(8), "corrupt or truncated gzip"),
        (b"\x1f\x8b" + bytes(30), "corrupt or truncated gzip"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 4), "its header claims"),
    ],
    ids=[
        "empty",
        "three bytes",
        "labels for images",
        "not unsigned bytes",
        "a byte short",
        "a byte long",
        "gzip cut",
        "gzip without checksum",
        "not gzip",
        "huge header",
    ],
)
def test_unsound_idx_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_idx(path, 3)
    assert str(error.value).startswith(f"{path}: ")
    assert "fetch or copy it again" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gzip_bomb_is_read_no_further_than_its_header_promises(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(IMAGES) + bytes(200 * 2**20), compresslevel=1))
    with pytest.raises(DataError, match="too long"):
        read_idx(path, 3)


def test_idx_pairs_must_belong_together(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", IMAGES, np.array([0, 1, 2]))
    images, labels = (tmp_path / f"a-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    assert read_idx_pair(images, labels, 3)[1].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="label 2 is out of range 0 to 1"):
        read_idx_pair(images, labels, 2)
    labels.write_bytes(idx(np.array([0, 1])))
    with pytest.raises(DataError, match=r"3 images but .* 2 labels"):
        read_idx_pair(images, labels, 3)
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "missing", 1)


# --- image folders ---------------------------------------------------------------------------


@pytest.fixture(params=["folder", "zip"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a function that writes files {path: bytes} as a folder or as a zip."""

    def write(files: dict[str, bytes]) -> Path:
        if request.param == "folder":
            for name, content in files.items():
                path = tmp_path / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return tmp_path / "images"
        with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return tmp_path / "images.zip"

    return write


def test_classes_and_images_come_in_path_order(store: Store) -> None:
    root = store(
        {
            "all/b/2.png": picture(20),
            "all/b/10.png": picture(10),
            "all/a/x.jpg": picture(30, format="JPEG"),
            "all/c/deep/z.png": picture(40),
            "all/a/notes.txt": b"not an image",
            "all/a/._x.png": b"a stray resource fork",
            "__MACOSX/all/a/x.png": b"another",
            "all/b/top.bmp": picture(50, format="BMP"),
        }
    )
    folders = read_image_folder(root, size=4)
    assert folders.class_names == ("a", "b", "c/deep")
    assert folders.labels.tolist() == [0, 1, 1, 1, 2]
    assert folders.images.shape == (5, 4, 4)
    assert folders.images[:, 0, 0].tolist() == [30, 10, 20, 50, 40]
    assert read_image_folder(root, size=4, cap=1).labels.tolist() == [0, 1, 2]


def test_images_shrink_by_area_and_become_grey(store: Store) -> None:
    checks = np.kron(np.array([[0, 100], [200, 40]], np.uint8), np.ones((3, 3), np.uint8))
    colour = np.zeros((6, 6, 3), np.uint8)
    colour[..., 1] = 255
    clear = np.zeros((6, 6, 4), np.uint8)
    wide = np.full((2, 6), 7, np.uint8)
    root = store(
        {
            "a/0.png": picture(checks),
            "a/1.png": picture(colour, "RGB"),
            "a/2.png": picture(clear, "RGBA"),
            "a/3.gif": picture(checks, format="GIF"),
            "a/4.png": picture(wide),
            "a/5.png": picture(checks, "1"),
        }
    )
    images = read_image_folder(root, size=2).images
    assert images[0].tolist() == images[3].tolist() == [[0, 100], [200, 40]]
    assert images[1].tolist() == [[150, 150], [150, 150]]  # ITU-R 601: 0.587 of green
    assert images[2].tolist() == [[255, 255], [255, 255]]  # transparent is white
    assert images[4].tolist() == [[7, 7], [7, 7]]
    assert read_image_folder(root, size=1).images[0].tolist() == [[85]]
    assert read_image_folder(root, size=2, invert=True).images[0].tolist() == [
        [255, 155],
        [55, 215],
    ]


def bomb() -> bytes:
    """Return a sound PNG of 10,000 x 10,000 black pixels in a few dozen kilobytes."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(1251)) for _ in range(10_000)) + packer.flush()
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a sound image"),
        (b"not a picture", "not a sound image"),
        (picture(np.random.default_rng(0).integers(0, 255, (9, 9), np.uint8))[:-40], "sound image"),
        (picture(9).replace(b"IDAT", b"IDAX"), "not a sound image"),
        (bomb(), "not a sound image .*pixels"),
        (bytes(50 * 2**20 + 1), "50 MB uncompressed, more than 50 MB"),
    ],
)
def test_unsound_images_are_named(store: Store, content: bytes, message: str) -> None:
    root = store({"a/good.png": picture(1), "b/bad.png": content})
    with pytest.raises(DataError, match=message) as error:
        read_image_folder(root)
    assert str(error.value).startswith(f"{root}: b/bad.png: ")
    assert "\n" not in str(error.value)


def test_sixteen_bit_images_are_refused(store: Store) -> None:
    buffer = BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(buffer, "PNG")
    with pytest.raises(DataError, match=r"a/x\.png: pixels of mode I;16; save it with 8 bits"):
        read_image_folder(store({"a/x.png": buffer.getvalue()}))


def test_roots_that_hold_no_classes_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in class folders"):
        read_image_folder(store({"loose.png": picture(1), "a/readme.txt": b"hello"}))
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    for name in ("broken.zip", "missing"):
        with pytest.raises(DataError, match=f"{name}: neither a folder nor a sound zip"):
            read_image_folder(tmp_path / name)


def test_a_corrupt_zip_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    noise = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/x.png", picture(noise))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip: a/x\.png: cannot be read \(Bad CRC-32"):
        read_image_folder(path)


def test_splits_are_chosen_not_mixed(store: Store) -> None:
    root = store({"train/a/0.png": picture(1), "test/a/0.png": picture(2)})
    with pytest.raises(DataError, match="holds the splits test, train; choose with split="):
        load("image_folder", root=root)


# --- data sets by name -----------------------------------------------------------------------


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


# --- few-shot tasks --------------------------------------------------------------------------


def same(a: TaskBatch, b: TaskBatch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def check_lifetimes(batch: TaskBatch, data: ImageData, ways: int, shots: int, queries: int) -> None:
    """Check what must hold of any draw of distinct classes from `numbered` data."""
    lifetimes = batch.x.shape[1]
    assert batch.x.shape == (ways * shots, lifetimes, 1)
    assert batch.x_query.shape == (lifetimes, ways * queries, 1)
    for i in range(lifetimes):
        train, query = batch.x[:, i, 0].long(), batch.x_query[i, :, 0].long()
        assert torch.equal(data.labels[train], batch.label[:, i])
        assert torch.equal(data.labels[query], batch.label_query[i])
        images = train.tolist() + query.tolist()
        assert len(set(images)) == len(images)
        classes, counts = batch.label[:, i].unique(return_counts=True)
        assert counts.tolist() == [shots] * ways
        query_classes, counts = batch.label_query[i].unique(return_counts=True)
        assert counts.tolist() == [queries] * ways
        assert torch.equal(classes, query_classes)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_lifetimes_hold_distinct_classes_and_images(draw: st.DataObject) -> None:
    shots, queries = draw.draw(st.integers(1, 6)), draw.draw(st.integers(1, 4))
    counts = draw.draw(
        st.lists(st.integers(shots + queries, shots + queries + 5), min_size=1, max_size=6)
    )
    ways = draw.draw(st.integers(1, len(counts)))
    data = numbered(counts)
    tasks = FewShot(data, ways=ways, shots=shots, queries=queries)
    batch = tasks.sample(
        generators(*draw.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    )
    check_lifetimes(batch, data, ways, shots, queries)


def test_a_lifetime_depends_on_its_generator_alone() -> None:
    tasks = FewShot("digits", shots=5)
    batch = tasks.sample(generators(3, 1, 4))
    assert same(batch, tasks.sample(generators(3, 1, 4)))
    alone = tasks.sample(generators(1))
    assert torch.equal(alone.x[:, 0], batch.x[:, 1])
    assert torch.equal(alone.label[:, 0], batch.label[:, 1])
    assert torch.equal(alone.x_query[0], batch.x_query[1])
    assert torch.equal(alone.label_query[0], batch.label_query[1])
    assert not torch.equal(batch.x[:, 0], batch.x[:, 1])
    g = generators(3)
    first, second = tasks.sample(g), tasks.sample(g)  # a generator moves on
    assert not same(first, second)
    state = torch.random.get_rng_state()
    tasks.sample(generators(0))
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_order_is_mixed_and_images_vary() -> None:
    tasks = FewShot("digits", ways=2, shots=50)
    batch = tasks.sample(generators(0, 1))
    changes = (batch.label[1:] != batch.label[:-1]).sum(0)
    assert (changes > 25).all()  # 50 expected of a random order, 1 of a sorted one


def test_the_family_and_its_description() -> None:
    tasks = FewShot("digits", ways=3, shots=4, queries=2, hold_out=["8", 0])
    assert isinstance(tasks, TaskFamily)
    assert (tasks.n_in, tasks.n_out, tasks.n_classes, tasks.steps) == (64, 10, 10, 12)
    assert tasks.classes == (1, 2, 3, 4, 5, 6, 7, 9)
    assert tasks.name == "digits-3way-4shot"
    assert tasks.describe() == {
        "family": "few-shot",
        "data": "digits",
        "split": "all",
        "images": 1797,
        "shape": [8, 8],
        "n_classes": 10,
        "fingerprint": tasks.data.fingerprint(),
        "ways": 3,
        "shots": 4,
        "queries": 2,
        "hold_out": [0, 8],
        "held_out": False,
        "replacement": False,
        "fixed_images": False,
    }


def test_held_out_classes_never_leak() -> None:
    tasks = FewShot("digits", ways=2, shots=3, queries=2, hold_out=4)
    batch = tasks.sample(generators(*range(60)))
    assert set(batch.label.unique().tolist()) == set(range(6))
    assert set(batch.label_query.unique().tolist()) == set(range(6))
    held_out = tasks.with_held_out()
    assert held_out.data is tasks.data
    batch = held_out.sample(generators(*range(60)))
    assert set(batch.label.unique().tolist()) == {6, 7, 8, 9}
    assert held_out.n_out == 10
    assert held_out.name == "digits-2way-3shot-held-out"


def test_pixels_are_scaled_in_either_precision() -> None:
    data = ImageData(
        images=torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8),
        labels=torch.tensor([0, 0]),
        n_classes=1,
        class_names=("a",),
        name="bytes",
        shape=(1, 2),
    )
    for dtype in (torch.float32, torch.float64):
        batch = FewShot(data, ways=1, shots=1, queries=1, fixed_images=True).sample(
            generators(0), dtype
        )
        assert batch.x.dtype == batch.x_query.dtype == dtype
        assert torch.equal(batch.x[:, 0], torch.tensor([[0, 51 / 255]], dtype=dtype))
        assert torch.equal(batch.x_query[0], torch.tensor([[1, 102 / 255]], dtype=dtype))


def test_fixed_images_are_the_first_in_stored_order() -> None:
    data = numbered([9, 9, 9])
    batch = FewShot(data, ways=3, shots=4, queries=2, fixed_images=True).sample(generators(0, 1))
    for c in range(3):
        stored = (data.labels == c).nonzero()[:, 0]
        for i in range(2):
            train = batch.x[batch.label[:, i] == c, i, 0].sort().values
            query = batch.x_query[i, batch.label_query[i] == c, 0]
            assert train.tolist() == stored[:4].tolist()
            assert query.tolist() == stored[4:6].tolist()
    assert not torch.equal(batch.label[:, 0], batch.label[:, 1])


@pytest.mark.parametrize(("count", "apart"), [(12, True), (11, False)])
def test_a_repeated_class_gets_other_images_if_it_has_enough(count: int, apart: bool) -> None:
    data = numbered([count])
    tasks = FewShot(data, ways=2, shots=4, queries=2, replacement=True)
    for seed in range(20):
        batch = tasks.sample(generators(seed))
        train, query = set(batch.x.view(-1).tolist()), set(batch.x_query.view(-1).tolist())
        assert not train & query
        assert (len(train), len(query)) == ((8, 4) if apart else (4, 2))
        assert batch.x.shape == (8, 1, 1)


def test_classes_may_repeat_only_with_replacement() -> None:
    def classes(replacement: bool) -> set[int]:
        tasks = FewShot("digits", ways=5, shots=2, queries=1, replacement=replacement)
        labels = tasks.sample(generators(*range(40))).label
        return {len(labels[:, i].unique()) for i in range(40)}

    assert classes(False) == {5}
    assert {3, 4, 5} <= classes(True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ways": 0}, ConfigError, "ways must be at least 1, not 0"),
        ({"queries": -1}, ConfigError, "queries must be at least 1"),
        ({"hold_out": 11}, ConfigError, "'digits' has 10 classes, not 11"),
        ({"hold_out": -1}, ConfigError, "'digits' has 10 classes, not -1"),
        ({"hold_out": (10,)}, ConfigError, "has no class 10"),
        ({"hold_out": "nine"}, ConfigError, "has no class 'nine'"),
        ({"held_out": True}, ConfigError, "needs classes in hold_out"),
        ({"ways": 11}, DataError, "11-way tasks need 11 classes but there are 10"),
        ({"hold_out": 6}, DataError, "need 5 classes but there are 4 .*hold out fewer"),
        ({"hold_out": 2, "held_out": True}, DataError, "5 held-out .* 2 .*hold out more"),
        ({"hold_out": 10, "replacement": True}, DataError, "but there are 0"),
        ({"shots": 170}, DataError, r"class '8' has 174 images but shots \+ queries = 180"),
    ],
)
def test_tasks_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FewShot("digits", **options)


def test_other_mistakes() -> None:
    data = numbered([70] * 5)
    with pytest.raises(ConfigError, match="need the name of a data set"):
        FewShot(data, split="train")
    with pytest.raises(ConfigError, match="at least one generator"):
        FewShot(data).sample([])
    with pytest.raises(ConfigError, match="needs classes in hold_out"):
        FewShot(data).with_held_out()


# --- the real files --------------------------------------------------------------------------


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (Path(REAL) / name).is_dir() or not REAL,
        reason=f"set RULESEARCH_DATA to a folder that holds {name}/",
    )


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
