"""GradCAM on channels-last layers and token layers: rearranged correctly, or refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer

from robustcls.api import explain
from robustcls.attribution import note
from robustcls.attribution.gradcam import layer_and_grid
from robustcls.core.errors import InputError

TARGET = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(size: int = 32, width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    net = VisionTransformer(
        image_size=size, patch_size=8, num_layers=2, num_heads=2, hidden_dim=width, mlp_dim=64, num_classes=4
    )
    nn.init.normal_(net.heads.head.weight, std=0.5)
    return net.eval()


def swin(width: int = 24) -> nn.Module:
    torch.manual_seed(0)
    net = SwinTransformer(
        patch_size=[2, 2], embed_dim=width, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=4
    )
    nn.init.normal_(net.head.weight, std=0.5)
    return net.eval()


class Tokens(nn.Module):
    """A vision transformer with tokens N,T,C, as in timm, and extra tokens before (front) and after (back) the patches."""

    def __init__(
        self, front: int = 1, back: int = 0, patch: int = 8, norms: bool = True, convolve: bool = True
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = patch
        self.proj = nn.Conv2d(3, 24, patch, patch) if convolve else nn.Linear(3 * patch * patch, 24)
        self.front, self.back = (nn.Parameter(torch.randn(1, n, 24) * 0.3) for n in (front, back))
        self.norm1 = nn.LayerNorm(24) if norms else nn.Identity()
        self.attn = nn.MultiheadAttention(24, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(24) if norms else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.norm = nn.LayerNorm(24) if norms else nn.Identity()
        self.head = nn.Linear(24, 4)

    def embed(self, x: Tensor) -> Tensor:
        if isinstance(self.proj, nn.Conv2d):
            return self.proj(x).flatten(2).transpose(1, 2)
        return self.proj(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        ends = [end.expand(len(x), -1, -1) for end in (self.front, self.back)]
        x = torch.cat((ends[0], self.embed(x), ends[1]), 1) if self.front.numel() + self.back.numel() else self.embed(x)
        normed = self.norm1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        x = self.norm(x + self.mlp(self.norm2(x)))
        return self.head(x.mean(1))


def by_hand(model: nn.Module, layer: str, x: Tensor, to_grid) -> Tensor:
    """Return GradCAM computed with hooks and one gradient; to_grid brings the output of the layer to N,C,H,W."""
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    logits = model(x.clone().requires_grad_())
    handle.remove()
    (slopes,) = torch.autograd.grad(logits.gather(1, TARGET[:, None]).sum(), kept)
    a, g = to_grid(kept[0]), to_grid(slopes)
    cam = (a * g.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu().detach()
    return F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def last_to_first(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def places(before: int, height: int, width: int):
    return lambda output: (
        output[:, before : before + height * width].transpose(1, 2).reshape(len(output), -1, height, width)
    )


@pytest.mark.parametrize(
    ("layer", "to_grid"),
    [
        ("features.3", last_to_first),
        ("features.3.0", last_to_first),
        ("features.3.1.norm1", last_to_first),
        ("features.1.0.mlp", last_to_first),
        ("features.2", last_to_first),
        ("norm", last_to_first),
        ("permute", lambda output: output),
        ("features.0.0", lambda output: output),
        ("features.0", last_to_first),
    ],
)
def test_swin_maps_are_those_of_channels_last(layer: str, to_grid, images: Tensor) -> None:
    model = swin()
    maps = explain(model, images, TARGET, f"gradcam(layer='{layer}')")
    torch.testing.assert_close(maps, by_hand(model, layer, images, to_grid), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("width", [4, 8, 16])
def test_as_many_channels_as_places_are_not_mixed_up(width: int, images: Tensor) -> None:
    model = swin(width)  # with 16 channels the first stage is 16x16x16, with 4 the second is 8x8x8
    for layer in ("features.1", "features.3", "norm"):
        maps = explain(model, images, TARGET, f"gradcam(layer='{layer}')")
        torch.testing.assert_close(maps, by_hand(model, layer, images, last_to_first), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1"])
@pytest.mark.parametrize("width", [16, 32])
def test_vit_maps_leave_the_class_token_out(layer: str, width: int, images: Tensor) -> None:
    model = vit(width=width)
    maps = explain(model, images, TARGET, f"gradcam(layer='{layer}')")
    torch.testing.assert_close(maps, by_hand(model, layer, images, places(1, 4, 4)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("front", "back"), [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (1, 4), (12, 0)])
@pytest.mark.parametrize("convolve", [True, False])
def test_tokens_beside_the_patches_are_left_out_wherever_they_stand(
    front: int, back: int, convolve: bool, images: Tensor
) -> None:
    model = Tokens(front, back, convolve=convolve).eval()
    for layer in ("norm1", "mlp", "norm"):
        maps = explain(model, images, TARGET, f"gradcam(layer='{layer}')")
        torch.testing.assert_close(maps, by_hand(model, layer, images, places(front, 4, 4)), rtol=1e-4, atol=1e-6)
    assert f"grid 4x4 of layer norm, of {16 + front + back} tokens" in note(model, images, "gradcam")


def test_a_token_grid_has_the_sides_of_an_oblong_image() -> None:
    model, x = Tokens().eval(), torch.rand(4, 3, 16, 64, generator=torch.Generator().manual_seed(1))
    assert layer_and_grid(model, x) == ("norm", (2, 8))
    maps = explain(model, x, TARGET, "gradcam")
    torch.testing.assert_close(maps, by_hand(model, "norm", x, places(1, 2, 8)), rtol=1e-4, atol=1e-6)


def test_the_default_layer_of_a_transformer_is_its_last_norm_whose_places_matter(images: Tensor) -> None:
    assert layer_and_grid(vit(), images) == ("encoder.layers.encoder_layer_1.ln_1", (4, 4))
    assert layer_and_grid(swin(), images) == ("norm", (8, 8))
    torch.manual_seed(0)
    convolutional = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4).eval()
    assert layer_and_grid(convolutional, images) == ("features.3.0.block.0", (4, 4))


def test_convnext_layers_are_taken_as_they_lie(images: Tensor) -> None:
    torch.manual_seed(0)
    model = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4).eval()
    for layer, to_grid in (
        ("features.3", lambda output: output),
        ("features.0.1", lambda output: output),  # a layer norm that permutes its input and permutes it back
        ("features.3.0.block.2", last_to_first),
        ("features.3.0.block.3", last_to_first),
        ("features.3.0.block.6", lambda output: output),
    ):
        maps = explain(model, images, TARGET, f"gradcam(layer='{layer}')")
        torch.testing.assert_close(maps, by_hand(model, layer, images, to_grid), rtol=1e-4, atol=1e-6)


def test_the_patch_embedding_is_named_where_it_is_all_there_is(images: Tensor) -> None:
    text = note(Tokens(norms=False).eval(), images, "gradcam")
    assert text.startswith("grid 4x4 of layer proj; that is the patch embedding")
    assert "patch embedding" not in note(vit(), images, "gradcam")


def test_tokens_that_lead_nowhere_are_refused(images: Tensor) -> None:
    for method in ("gradcam", "guided_gradcam"):
        with pytest.raises(InputError, match=r"'encoder\.ln' only through the class token.*encoder_layer_1\.ln_1"):
            explain(vit(), images, TARGET, f"{method}(layer='encoder.ln')")


class Turned(nn.Module):
    """A model with a layer whose output is 8x8x8, so that nothing tells which axis holds the channels."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last, self.cube, self.head = last, Cube(last), nn.Linear(512, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cube(x).flatten(1))


class Cube(nn.Module):
    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last
        self.register_buffer("mix", torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        small = x.view(len(x), 3, 8, 4, 8, 4).mean((3, 5))
        return torch.einsum("oc,nchw->nhwo" if self.last else "oc,nchw->nohw", self.mix, small).square()


@pytest.mark.parametrize("last", [True, False])
def test_a_layout_that_cannot_be_told_is_asked_for(last: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    model = Turned(last).eval()
    with pytest.raises(InputError, match='layer \'cube\'.*layout="nhwc" or layout="nchw"'):
        explain(model, images, TARGET, "gradcam(layer='cube')")
    layout = "nhwc" if last else "nchw"
    maps = explain(model, images, TARGET, f"gradcam(layer='cube', layout='{layout}')")
    expected = by_hand(model, "cube", images, last_to_first if last else lambda output: output)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="layout 'hwc' is none of nchw, nhwc, ntc"):
        explain(model, images, TARGET, "gradcam(layer='cube', layout='hwc')")
    with pytest.raises(InputError, match="layout is that of a layer"):
        explain(model, images, TARGET, "gradcam(layout='nhwc')")


def test_layers_without_a_place_for_each_patch_are_refused(images: Tensor) -> None:
    class Batched(Tokens):  # tokens T,N,C, as in CLIP
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.norm1(self.embed(x).transpose(0, 1))).mean(0))

    model = Batched(norms=True).eval()
    for layer in ("norm1", "head"):
        with pytest.raises(InputError, match=f"layer '{layer}' has no grid"):
            explain(model, images, TARGET, f"gradcam(layer='{layer}')")
    with pytest.raises(InputError, match="layer 'encoder.layers.encoder_layer_0.self_attention' has no grid"):
        explain(vit(), images, TARGET, "gradcam(layer='encoder.layers.encoder_layer_0.self_attention')")
