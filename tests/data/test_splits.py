import subprocess
import sys

import pytest
import torch

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.data import recipe, splits
from robustcls.data.images import Images
from robustcls.data.sets.digits import digits
from robustcls.data.splits import SAMPLING_RULE, choose, load_split, load_training_data


def shares(images):
    return images.labels.bincount(minlength=len(images.classes)).double() / len(images)


def test_digits():
    train, test = digits("train"), digits("test")
    assert train.pixels.shape == (1257, 1, 32, 32)
    assert test.pixels.shape == (540, 1, 32, 32)
    assert train.pixels.dtype is torch.uint8
    assert train.labels.dtype is torch.int64
    assert train.pixels.max() == 255
    assert not train.flip
    assert torch.allclose(shares(train), shares(test), atol=0.005)
    assert digits("test").sha256() == test.sha256()


def test_digits_at_native_size_are_the_embedded_ones():
    from sklearn.datasets import load_digits

    both = torch.cat([digits("train", size=8).pixels, digits("test", size=8).pixels])
    ours = {tuple(image.flatten().tolist()) for image in both}
    theirs = {tuple((image * 255 / 16).round().astype(int).flatten().tolist()) for image in load_digits().images}
    assert ours == theirs


def test_digits_refuse():
    with pytest.raises(InputError, match="unknown split"):
        digits("val")
    with pytest.raises(InputError, match="size=0"):
        digits("test", size=0)


def test_train_val_test_are_disjoint_and_stratified():
    train, val = load_training_data("digits", seed=3)
    assert len(val) == 126
    assert sorted([*train.index.tolist(), *val.index.tolist()]) == list(range(1257))
    assert torch.allclose(shares(train), shares(val), atol=0.01)
    assert load_split("digits", "test", seed=3).sha256() == digits("test").sha256()
    assert torch.equal(load_split("digits", "val", seed=3).index, val.index)
    assert torch.equal(load_split("digits", "train", seed=3).index, train.index)
    assert not torch.equal(load_split("digits", "val", seed=4).index, val.index)


def test_val_max(monkeypatch):
    monkeypatch.setattr(splits, "VAL_MAX", 50)
    assert len(load_training_data("digits")[1]) == 50
    monkeypatch.setattr(splits, "VAL_SHARE", 0.001)
    assert len(load_training_data("digits")[1]) == 10


def test_limit_train_leaves_val_alone_and_nests():
    whole, val = load_training_data("digits")
    some, val_some = load_training_data("digits", limit_train=300)
    few, val_few = load_training_data("digits", limit_train=100)
    assert (len(some), len(few)) == (300, 100)
    assert torch.equal(val.index, val_some.index)
    assert torch.equal(val.index, val_few.index)
    assert set(few.index.tolist()) < set(some.index.tolist()) < set(whole.index.tolist())
    assert torch.allclose(shares(few), shares(whole), atol=0.011)
    assert len(load_training_data("digits", limit_train=10**6)[0]) == len(whole)
    with pytest.raises(InputError, match="limit_train 0"):
        load_split("digits", "train", limit_train=0)


def test_choose():
    images = digits("test")
    previous: set[int] = set()
    for n in (1, 7, 10, 100, 300, 533):
        chosen = choose(images, n)
        assert len(chosen) == n
        assert chosen.index.tolist() == sorted(chosen.index.tolist())
        assert previous < set(chosen.index.tolist())
        previous = set(chosen.index.tolist())
    first = [position for k in range(10) for position in (images.labels == k).nonzero().flatten()[:10].tolist()]
    assert choose(images, 100).index.tolist() == sorted(first)
    assert choose(images, None) is images
    assert choose(images, 10**6) is images
    assert SAMPLING_RULE
    with pytest.raises(InputError, match="n 0"):
        choose(images, 0)


def test_choose_when_a_class_runs_out():
    images = Images(
        torch.zeros(9, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1, 1, 1, 1, 1, 2, 1]), ("a", "b", "c"), "t"
    )
    assert choose(images, 5).index.tolist() == [0, 1, 2, 3, 7]


def test_choose_keeps_the_share_of_each_class():
    labels = torch.tensor([0] * 570 + [1] * 30)
    images = Images(torch.zeros(600, 1, 2, 2, dtype=torch.uint8), labels, ("healthy", "ill"), "t")
    for n in (40, 60, 100, 400):
        assert choose(images, n).labels.bincount(minlength=2).tolist() == [round(0.95 * n), n - round(0.95 * n)]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Make a module with valid and invalid data sets."""
    (tmp_path / "minedata.py").write_text(
        "import numpy as np\n"
        "def pair(split): return np.zeros((40, 1, 4, 4), np.uint8), np.arange(40) % 2\n"
        "def sized(split, *, size: int = 4): return np.zeros((40, 1, size, size)), np.arange(40) % 2, ['a', 'b']\n"
        "def few(split): return np.zeros((3, 1, 4, 4)), np.array([0, 1, 1])\n"
        "def wrong(split): return 3\n"
        "def fails(split): raise KeyError('two\\nlines')\n"
        "def no_arguments(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("minedata", None)


def test_own_callable(mine):
    assert load_split("minedata:pair", "test").pixels.shape == (40, 1, 4, 4)
    train, val = load_training_data("minedata:sized(size=6)")
    assert (len(train), len(val), train.classes) == (36, 4, ("a", "b"))
    assert train.pixels.shape[2:] == (6, 6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minedata:few", "too few to hold out"),
        ("minedata:wrong", "gave int"),
        ("minedata:fails", "failed for split 'train': KeyError"),
        ("minedata:no_arguments", "cannot be called"),
        ("minedata:absent", "has no 'absent'"),
        ("minedata:sized(sise=3)", "did you mean 'size'"),
        ("digist", "did you mean 'digits'"),
        ("digits:8", "cannot be called"),
        ("folder", "write it as folder:PATH"),
    ],
)
def test_wrong_specs(mine, spec, message):
    with pytest.raises(InputError, match=message) as error:
        load_split(spec, "train")
    assert "\n" not in str(error.value)


def test_wrong_split():
    with pytest.raises(InputError, match="did you mean 'train'"):
        load_split("digits", "trian")


SETS = ("cifar10", "cifar100", "digits", "fashion_mnist", "folder", "svhn")


def test_recipes():
    assert set(SETS) <= set(plugins.names("data"))
    for name in SETS:
        spec = f"{name}:/nowhere" if name == "folder" else name
        assert set(recipe(spec)) == {"norm", "eps", "augment", "epochs", "lr", "batch_size", "adv"}
        plugins.load("augment", recipe(spec)["augment"])
    assert recipe("svhn")["augment"] == "crop_flip(flip=False)"
    assert recipe("digits(size=8)")["eps"] == recipe("digits")["eps"]
    assert recipe("mylab.data:images") == {}
    with pytest.raises(InputError, match="did you mean 'digits'"):
        recipe("digit")


def test_recipe_reads_without_torch():
    code = "import sys; from robustcls.data import recipe; recipe('folder:x'); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
