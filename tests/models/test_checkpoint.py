"""Checkpoints: their content, bit-exact round trips, and that no code in them is run."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.weights import read_file
from tests.helpers.evil import Evil

META = {"data": "digits", "threat": {"norm": "linf", "eps": 0.1}, "track": (), "note": None}


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = build("vgg16(width=0.05)", classes=("a", "b", "c"), input_size=(3, 8, 8), mean=(0.1, 0.2, 0.3), std=(0.4,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return model.eval().to(memory_format=torch.channels_last)


@pytest.fixture
def path(model, tmp_path):
    save_checkpoint(tmp_path / "new" / "ckpt.pt", model, META)
    return tmp_path / "new" / "ckpt.pt"


def test_a_round_trip_is_bit_equal(model, path):
    again = robustcls.load(path)
    assert not any(module.training for module in again.modules())
    assert (again.classes, again.input_size, again.arch) == (model.classes, model.input_size, model.arch)
    state, wanted = again.state_dict(), model.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(again(x), model.to(memory_format=torch.contiguous_format)(x))


def test_a_checkpoint_holds_tensors_and_primitives_alone(path):
    content = torch.load(path, weights_only=True)
    seen = set()

    def walk(value):
        seen.add(type(value))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
            walk(item)

    walk(content)
    assert seen <= {dict, list, tuple, str, int, float, bool, type(None), torch.Tensor}
    assert content["meta"] == META
    assert content["format"] == "robustcls/checkpoint/1"
    assert all(tensor.is_contiguous() for tensor in content["state_dict"].values())
    assert os.listdir(path.parent) == ["ckpt.pt"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(zipped, tmp_path, recwarn):
    trap, path = tmp_path / "trap", tmp_path / "evil.pt"
    content = {"state_dict": {"weight": Evil(trap)}}
    torch.save(content, path) if zipped else path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="could run code"):
        read_file(path)
    assert not trap.exists()
    assert not recwarn.list
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())  # the trap is real
    assert trap.exists()


@pytest.mark.parametrize("keep", [-1, -200, 1000, 100, 3])
def test_a_truncated_file(keep, path):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated or damaged") as caught:
        read_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "it is empty"), (b"hello, world\n" * 9, "not a PyTorch file"), (b"\x80\x02", "damaged|more than tensors")],
)
def test_files_that_are_none(content, words, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_file(tmp_path / "x.pt")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_file(tmp_path / "none.pt")
    with pytest.raises(InputError, match="it is a folder"):
        read_file(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused_in_one_line(tmp_path, capfd):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(InputError, match="could run code"):
        read_file(tmp_path / "script.pt")
    assert capfd.readouterr().err == ""


def test_damaged_content_names_what_is_missing(path):
    content = torch.load(path, weights_only=True)
    for key in ("arch", "meta", "state_dict"):
        torch.save({name: value for name, value in content.items() if name != key}, path)
        with pytest.raises(InputError, match=f"lacks '{key}'"):
            robustcls.load(path)
    content["state_dict"] = OrderedDict(list(content["state_dict"].items())[1:])
    torch.save(content, path)
    with pytest.raises(InputError, match=r"no weight '0\.0\.weight'"):
        robustcls.load(path)


def test_load_takes_checkpoints_alone(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="name it with `arch`, such as"):
        robustcls.load(tmp_path / "weights.pt")


def test_a_checkpoint_cannot_choose_code_to_run(tmp_path, monkeypatch):
    """An architecture of the user's own is loaded only if the user names it, too."""
    from robustcls.models.loading import build_model, read_model

    (tmp_path / "own_arch_here.py").write_text(
        "from torch import nn\n\n\ndef net(num_classes, input_size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = build("own_arch_here:net", classes=["a", "b"], input_size=(1, 8, 8))
    save_checkpoint(tmp_path / "own.pt", model, {})
    with pytest.raises(InputError, match="asks to run 'own_arch_here:net'"):
        robustcls.load(tmp_path / "own.pt")
    source = read_model(str(tmp_path / "own.pt"))
    loaded = build_model(source, arch="own_arch_here:net", classes=["a", "b"], input_size=(1, 8, 8))
    assert loaded.notes == []
