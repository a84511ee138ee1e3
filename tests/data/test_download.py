import gzip
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from robustcls.core.errors import InputError
from robustcls.data.download import arriving, data_folder
from robustcls.data.sets import fashion_mnist as fashion_module
from robustcls.data.splits import load_split


@pytest.fixture
def no_debian(monkeypatch):
    monkeypatch.setattr(fashion_module, "DEBIAN", Path("/nowhere"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion_mnist"])
def test_no_network_is_one_line(tmp_path, monkeypatch, no_debian, name):
    def refuse(*args, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for _ in range(2):  # a failed download leaves nothing that looks like the data set
        with pytest.raises(InputError, match=f"cannot download {name} from http.*not known.*`data_dir`") as error:
            load_split(name, "train", data_dir=str(tmp_path))
        assert "\n" not in str(error.value)
        assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".")]


class Cut:
    """The answer of a server that ends too early."""

    length, url = 1000, None

    def __init__(self):
        self.chunks = [b"half a file", b""]

    def read(self, size):
        return self.chunks.pop(0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("name", ["cifar10", "svhn", "fashion_mnist"])
def test_a_partial_download_leaves_nothing(tmp_path, monkeypatch, no_debian, name):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **options: Cut())
    with pytest.raises(InputError, match=f"cannot download {name}.*corrupted"):
        load_split(name, "test", data_dir=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_arriving_moves_files_and_restores_the_timeout(tmp_path):
    before = socket.getdefaulttimeout()
    with arriving("toy", tmp_path / "data", "http://example.org") as part:
        (part / "below").mkdir()
        (part / "below" / "batch").write_text("new")
        (part / "toy.tar.gz").write_text("archive")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [
        "data/below/batch"
    ]
    assert socket.getdefaulttimeout() == before


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        load_split("cifar10", "train", data_dir=str(tmp_path / "file"))


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("ROBUSTCLS_DATA", raising=False)
    assert data_folder(None) == Path("~/.cache/robustcls").expanduser()
    monkeypatch.setenv("ROBUSTCLS_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path
    assert data_folder("/x") == Path("/x")


def write_idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([8 << 8 | values.ndim, *values.shape], dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx_files(tmp_path, no_debian, below):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    write_idx(tmp_path / below / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / below / "t10k-labels-idx1-ubyte.gz", np.arange(20) % 10)
    images = load_split("fashion_mnist", "test", data_dir=str(tmp_path))
    assert images.pixels.shape == (20, 1, 28, 28)
    assert np.array_equal(images.pixels[:, 0].numpy(), pixels)
    assert images.labels.tolist() == [i % 10 for i in range(20)]
    padded = load_split("fashion_mnist(pad=2)", "test", data_dir=str(tmp_path)).pixels
    assert np.array_equal(padded[:, 0, 2:30, 2:30].numpy(), pixels)
    assert padded.shape == (20, 1, 32, 32)
    assert padded[:, :, :2].sum() == 0


@pytest.mark.parametrize("kind", ["cut", "other", "empty"])
def test_fashion_mnist_refuses_damaged_files(tmp_path, no_debian, kind):
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    write_idx(path, np.zeros((2, 28, 28)) if kind == "cut" else np.zeros(4))
    if kind != "other":
        path.write_bytes(path.read_bytes()[: 40 if kind == "cut" else 0])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(2))
    with pytest.raises(InputError, match=f"{path.name} is (damaged|not an idx file)"):
        load_split("fashion_mnist", "test", data_dir=str(tmp_path))


@pytest.mark.skipif(not fashion_module.DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_fashion_mnist_of_debian(tmp_path):
    images = load_split("fashion_mnist", "test", data_dir=str(tmp_path))
    assert images.pixels.shape == (10000, 1, 28, 28)
    assert images.labels.bincount().tolist() == [1000] * 10
