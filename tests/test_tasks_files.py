"""Files of images: IDX and class folders, sound or not."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_data import idx, picture, write_pair

from rulesearch.errors import DataError
from rulesearch.tasks import load
from rulesearch.tasks.idx import read_idx, read_idx_pair
from rulesearch.tasks.image_folder import read_image_folder

Store = Callable[[dict[str, bytes]], Path]

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
        (b"not a picture", "not a sound image of BMP, .* TIFF or WEBP; remove"),
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


@pytest.mark.parametrize(
    "folders",
    [
        ("train/a", "test/a"),
        ("training/0", "training/1", "testing/0", "testing/1"),
        ("Train/a", "TEST/b"),
        ("train/a", "dev/b"),
        ("train/a", "images_evaluation/b"),
        ("images_background/a", "images_background/b", "images_evaluation/a"),
        ("train/a", "test/a", "unlabelled/b"),
        ("train/Greek/1", "Test/Greek/1", "unlabelled"),
    ],
)
def test_splits_are_chosen_not_mixed(store: Store, folders: tuple[str, ...]) -> None:
    root = store({f"all/{folder}/0.png": picture(1) for folder in folders})
    tops = ", ".join(sorted({folder.split("/")[0] for folder in folders} - {"unlabelled"}))
    message = f"all: holds the splits {tops}; "
    remedy = "choose with split=" if root.is_dir() else "unpack it and choose with split="
    with pytest.raises(DataError, match=message + remedy):
        load("image_folder", root=root)


@pytest.mark.parametrize(
    "folders",
    [
        ("images_background/Greek/1", "images_evaluation/Oriya/1"),  # other alphabets
        ("Greek/1", "Latin/1"),
        ("bus", "train"),
        ("bus/day", "train/night"),
        ("train/a", "train/b"),
    ],
)
def test_classes_called_as_splits_are_classes(store: Store, folders: tuple[str, ...]) -> None:
    root = store({f"{folder}/0.png": picture(1) for folder in folders})
    assert len(read_image_folder(root).class_names) == 2


def test_links_to_class_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    for place in ("real/cat", "real/pig", "store/dog", "store/.git"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").write_bytes(picture(1))
    (tmp_path / "real" / "dog").symlink_to(tmp_path / "store" / "dog")
    (tmp_path / "store" / "dog" / "again").symlink_to(tmp_path / "store" / "dog")
    (tmp_path / "real" / "pig" / "whole").symlink_to(tmp_path / "real")
    (tmp_path / "real" / ".git").symlink_to(tmp_path / "store" / ".git")
    (tmp_path / "real" / ".gone").symlink_to(tmp_path / "nowhere")
    assert read_image_folder(tmp_path / "real").class_names == ("cat", "dog", "pig")
    (tmp_path / "real" / "hog").symlink_to(tmp_path / "real" / "pig")
    with pytest.raises(DataError, match="real: pig and hog are one folder; remove the link"):
        read_image_folder(tmp_path / "real")
    (tmp_path / "real" / "hog").unlink()
    (tmp_path / "real" / "cow").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="real: cow is a link to nothing; mend or remove it"):
        read_image_folder(tmp_path / "real")


def test_a_class_of_no_known_suffix_is_named(store: Store) -> None:
    files = {
        "all/a/0.jfif": picture(1, format="JPEG"),
        "all/b/deep/0.JPE": picture(2, format="JPEG"),
        "all/b/readme.txt": b"of the folder of a class",
        "all/a/labels/0.txt": b"below a class",
        "all/empty/.DS_Store": b"hidden",
        "all/.git/config": b"hidden",
        "__MACOSX/notes": b"hidden",
        "notes/readme.txt": b"beside no class",
    }
    assert read_image_folder(store(files)).class_names == ("a", "b/deep")
    with pytest.raises(DataError, match=r": all/c is beside .* but 0\.heic; .* \.bmp, \.gif, "):
        read_image_folder(store({**files, "all/c/0.heic": b"", "all/c/1.heic": b""}))
