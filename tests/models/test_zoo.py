"""Models of torchvision and timm: weights from the local cache, and architectures for state dicts."""

import copy
import sys
import urllib.error
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from robustcls.core.errors import InputError
from robustcls.core.plugins import parse
from robustcls.evaluation.data_spec import choose_data
from robustcls.models.checkpoint import build, load_weights, restore, save_checkpoint
from robustcls.models.loading import build_model, fit_to_data, read_model
from robustcls.models.zoo import decoding_of_zoo
from robustcls.runtime.fused import FusedModel

CLASSES = [str(i) for i in range(1000)]
TINY = "timm/test_resnet"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Use empty caches and no network; return the folder for weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("ROBUSTCLS_DOWNLOAD", raising=False)

    def offline(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    return tmp_path / "torch" / "hub" / "checkpoints"


def load(spec, arch=None, classes=CLASSES, input_size=(3, 224, 224), **options):
    return build_model(read_model(str(spec)), arch=arch, classes=classes, input_size=input_size, **options)


@pytest.fixture
def squeezenet(home):
    """Return torchvision's smallest model; its random weights are saved in place of the pretrained ones."""
    from torchvision import models

    net = models.squeezenet1_1().eval()
    home.mkdir(parents=True)
    torch.save(net.state_dict(), home / "squeezenet1_1-b8a52dc0.pth")
    return net


def test_torchvision_takes_the_cached_weights_and_what_belongs_to_them(squeezenet):
    loaded = load("torchvision/squeezenet1_1")
    model = loaded.model
    assert (loaded.name, loaded.notes, len(loaded.sha256)) == ("torchvision/squeezenet1_1", [], 64)
    assert (loaded.classes[0], len(loaded.classes), model.input_size) == ("tench", 1000, (3, 224, 224))
    assert not any(module.training for module in model.modules())
    x = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = squeezenet((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("spec", "decoding"),
    [
        ("torchvision/squeezenet1_1", {"size": 224, "resize": 256, "filter": "bilinear"}),
        ("torchvision/efficientnet_b0", {"size": 224, "resize": 256, "filter": "bicubic"}),
        ("torchvision/squeezenet1_1(size=64)", {}),
        ("timm/vit_tiny_patch16_224", {"size": 224, "resize": 248, "filter": "bicubic"}),
    ],
)
def test_images_are_decoded_as_for_the_weights(spec, decoding):
    """The crop takes 224/256 of the resized image, or 0.9 for timm's ViT."""
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    assert decoding_of_zoo(spec) == decoding
    data, _, said = choose_data(spec, {}, "folder:photos")
    found = parse("data", f"folder{data.removeprefix('folder:photos')}")
    assert dict(found.options) == decoding
    assert bool(said) == bool(decoding)
    for own in ("folder:photos(size=64)", "folder:photos(filter=bicubic)", "digits"):
        assert choose_data(spec, {}, own)[::2] == (own, [])


def test_options_that_the_weights_answer_are_not_used_and_that_is_said(squeezenet):
    loaded = load("torchvision/squeezenet1_1", arch="vgg16", mean=[0.5])
    assert loaded.notes == ["torchvision/squeezenet1_1 knows its own: `arch`, `mean` not used"]


def test_weights_that_are_not_here_are_not_fetched_unasked(home):
    with pytest.raises(
        InputError, match="ROBUSTCLS_DOWNLOAD=1 to download them, or put https://.*resnet18-.*pth"
    ) as no:
        load("torchvision/resnet18")
    assert str(home) in str(no.value)
    assert "\n" not in str(no.value)


def test_a_download_is_asked_for_by_the_environment(home, monkeypatch):
    monkeypatch.setenv("ROBUSTCLS_DOWNLOAD", "1")
    with pytest.raises(InputError, match="squeezenet1_1 cannot be made: URLError: .*no network in tests") as caught:
        load("torchvision/squeezenet1_1")
    assert "\n" not in str(caught.value)

    def arrive(url, file, *_, **__):
        from torchvision import models

        torch.save(models.squeezenet1_1().state_dict(), file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", arrive)
    assert load("torchvision/squeezenet1_1").sha256
    assert [file.name for file in home.iterdir()] == ["squeezenet1_1-b8a52dc0.pth"]


def test_cached_weights_run_no_code(home, squeezenet):
    (home / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"not weights")
    with pytest.raises(InputError, match="not a PyTorch file"):
        load("torchvision/squeezenet1_1")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision/resnet17", "did you mean 'resnet"),
        ("torchvision/fcn_resnet50", "unknown torchvision model"),
        ("torchvision/squeezenet1_1(dropuot=1)", "cannot be made: TypeError: .*dropuot"),
    ],
)
def test_names_and_options_that_are_none(spec, words, squeezenet):
    with pytest.raises(InputError, match=words) as caught:
        load(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["torchvision/resnet18", "timm/test_resnet"])
def test_a_state_dict_with_the_architecture_of_a_zoo(spec, tmp_path):
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    model = build(spec, classes=["a", "b", "c"], input_size=(3, 32, 32)).eval()
    torch.save(model.net.state_dict(), tmp_path / "w.pt")
    small = {"classes": ["a", "b", "c"], "input_size": (3, 32, 32)}
    loaded = load(tmp_path / "w.pt", arch=spec, mean=[0.5], std=[0.2], **small)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.model(x), model.net((x - 0.5) / 0.2), rtol=1e-6, atol=1e-6)
    assert (loaded.model.classes, loaded.notes, loaded.model.arch) == (("a", "b", "c"), [], spec)
    loaded = load(tmp_path / "w.pt", arch=spec)  # as many outputs as the weights have
    with pytest.raises(InputError, match="gives 3 outputs without names, the data has 1000 classes"):
        fit_to_data(loaded, x, [f"class {number}" for number in range(1000)])


def test_a_checkpoint_remembers_the_architecture_of_a_zoo(tmp_path):
    model = build("torchvision/squeezenet1_1(dropout=0.1)", classes=["a", "b"], input_size=(3, 32, 32)).eval()
    save_checkpoint(tmp_path / "ckpt.pt", model, {})
    again, _ = restore(torch.load(tmp_path / "ckpt.pt", weights_only=True), "ckpt.pt")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))


def test_torchvision_sees_a_grey_image_as_three_equal_channels(tmp_path):
    model = build("torchvision/squeezenet1_1", classes=["a", "b"], input_size=(1, 28, 28), mean=[0.4], std=[0.3]).eval()
    assert list(model.net.state_dict()) == list(get_net("squeezenet1_1").state_dict())
    x = torch.rand(2, 1, 28, 28)
    colour = get_net("squeezenet1_1")
    colour.load_state_dict(model.net.state_dict())
    torch.testing.assert_close(model(x), colour((x.repeat(1, 3, 1, 1) - 0.4) / 0.3), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="takes 1 or 3 channels, the data has 4"):
        build("torchvision/squeezenet1_1", classes=["a", "b"], input_size=(4, 28, 28))


def get_net(name, num_classes=2):
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=num_classes).eval()


def test_size_resizes_behind_the_normalisation_and_comes_back_from_a_checkpoint(tmp_path):
    spec = "torchvision/squeezenet1_1(size=64)"
    model = build(spec, classes=["a", "b"], input_size=(3, 16, 24), mean=[0.4], std=[0.3]).eval()
    plain = get_net("squeezenet1_1")
    plain.load_state_dict(model.net.state_dict())
    x = torch.rand(2, 3, 16, 24)
    large = nn.functional.interpolate((x - 0.4) / 0.3, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), plain(large), rtol=1e-6, atol=1e-6)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    torch.testing.assert_close(FusedModel(model)(x), model(x))
    save_checkpoint(tmp_path / "ckpt.pt", model, {})
    again, _ = restore(torch.load(tmp_path / "ckpt.pt", weights_only=True), "ckpt.pt")
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision/alexnet", r"alexnet cannot take images of 32x32 .*give torchvision/alexnet\(size=64\)"),
        ("torchvision/alexnet(dropout=0.1)", r"give torchvision/alexnet\(size=64\)"),
        ("torchvision/alexnet(size=32)", r"give torchvision/alexnet\(size=64\)"),
        ("torchvision/alexnet(size=0)", "size=0 is not the side of an image"),
        ("torchvision/alexnet(size='64')", "size='64' is not the side of an image"),
        ("timm/vit_tiny_patch16_224", r"give timm/vit_tiny_patch16_224\(size=224\)"),
    ],
)
def test_images_that_are_too_small_are_refused_with_a_size_that_works(spec, words):
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(InputError, match=words) as caught:
        build(spec, classes=["a", "b"], input_size=(3, 32, 32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 32), ("inception_v3", 75)])
def test_networks_with_auxiliary_heads_give_plain_logits_in_both_modes(name, side, home):
    model = build(f"torchvision/{name}", classes=["a", "b"], input_size=(3, side, side))
    x = torch.rand(2, 3, side, side)
    assert model.train()(x).shape == model.eval()(x).shape == (2, 2)
    with warnings.catch_warnings(action="ignore"):
        whole = get_net(name)
    load_weights(model.net, whole.state_dict(), "whole.pt")  # the weights of auxiliary heads are ignored
    with torch.no_grad():
        torch.testing.assert_close(model(x), whole(x), rtol=1e-6, atol=1e-6)


def test_googlenet_takes_cached_weights_in_the_normalisation_that_they_want(home):
    with warnings.catch_warnings(action="ignore"):
        net = get_net("googlenet", 1000)
    home.mkdir(parents=True)
    torch.save(net.state_dict(), home / "googlenet-1378be20.pth")
    net.transform_input = True
    model = load("torchvision/googlenet").model
    x, (mean, std) = torch.rand(2, 3, 64, 64), (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net((x - mean) / std), rtol=1e-3, atol=1e-4)
        assert model.train()(x).shape == (2, 1000)


def test_a_folder_may_be_called_like_a_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("timm").mkdir()
    torch.save(nn.Linear(2, 2).state_dict(), "timm/w.pt")
    assert set(read_model("timm/w.pt").content) == {"weight", "bias"}


def test_timm_that_is_not_installed_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'robustcls\[timm\]'"):
        load("timm/resnet18")


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "hf"


def test_timm_takes_the_cached_weights_and_what_belongs_to_them(hugging_face):
    import timm
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="ROBUSTCLS_DOWNLOAD=1 to download them, or fetch timm/test_resnet"):
        load(TINY)
    config = timm.get_pretrained_cfg("test_resnet")
    net = timm.create_model("test_resnet").eval()
    repository = hugging_face / f"models--{config.hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(net.state_dict(), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    loaded = load(TINY)
    assert (loaded.classes[:2], len(loaded.classes)) == (("tench", "goldfish"), 1000)
    assert (loaded.model.input_size, len(loaded.sha256)) == (tuple(config.input_size), 64)
    x = torch.rand(2, *config.input_size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), net((x - mean) / std))


def test_timm_builds_for_other_channels_and_says_what_it_does_not_know():
    pytest.importorskip("timm")
    assert build(TINY, classes=["a", "b"], input_size=(1, 32, 32)).eval()(torch.rand(1, 1, 32, 32)).shape == (1, 2)
    with pytest.raises(InputError, match="did you mean one of .*resnet18") as caught:
        load("timm/resnet19")
    assert "\n" not in str(caught.value)
