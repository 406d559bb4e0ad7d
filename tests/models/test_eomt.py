"""EoMT's queries in the last blocks of a vision transformer."""

import copy
import re
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from spcnet.config import FeaturesConfig, HeadConfig
from spcnet.errors import UsageError
from spcnet.models.backbones import Backbone
from spcnet.models.backbones.timm_vit import TimmViT
from spcnet.models.heads.eomt import EomtDecoder
from spcnet.models.network import Segmentor
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, MaskPrediction

WIDTH, DEPTH, HEADS, SIDE, K, QUERIES, BLOCKS = 32, 5, 4, 64, 5, 6, 3


def backbone_of(features: FeaturesConfig | None = None, *, patch: int = 16) -> TimmViT:
    torch.manual_seed(0)
    model = VisionTransformer(  # like DINOv2 with registers
        img_size=SIDE,
        patch_size=patch,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        reg_tokens=2,
        no_embed_class=True,
        init_values=1.0,
        num_classes=0,
        global_pool="",
    )
    return TimmViT(model, features or FeaturesConfig(), None, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def network_of(**settings: Any) -> Segmentor:
    backbone = backbone_of()
    decoder = EomtDecoder(backbone, K, HeadConfig(**{"queries": QUERIES, "blocks": BLOCKS, **settings}))
    network = Segmentor(backbone, decoder, None).double()
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():  # what starts at zero or one would hide a difference
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return network


def image(height: int = SIDE, width: int = SIDE, images: int = 2) -> Tensor:
    return torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


NAMES = (
    (r"^backbone\.model\.cls_token$", "embeddings.cls_token"),
    (r"^backbone\.model\.reg_token$", "embeddings.register_tokens"),
    (r"^backbone\.model\.pos_embed$", "embeddings.position_embeddings.weight"),
    (r"^backbone\.model\.patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^backbone\.model\.blocks\.(\d+)\.norm", r"layers.\1.norm"),
    (r"^backbone\.model\.blocks\.(\d+)\.attn\.proj", r"layers.\1.attention.out_proj"),
    (r"^backbone\.model\.blocks\.(\d+)\.ls(\d)\.gamma", r"layers.\1.layer_scale\2.lambda1"),
    (r"^backbone\.model\.blocks\.(\d+)\.mlp", r"layers.\1.mlp"),
    (r"^backbone\.model\.norm", "layernorm"),
    (r"^decoder\.queries$", "query.weight"),
    (r"^decoder\.to_class", "class_predictor"),
    (r"^decoder\.to_mask\.0", "mask_head.fc1"),
    (r"^decoder\.to_mask\.2", "mask_head.fc2"),
    (r"^decoder\.to_mask\.4", "mask_head.fc3"),
    (r"^decoder\.upscale\.(\d+)\.0", r"upscale_block.block.\1.conv1"),
    (r"^decoder\.upscale\.(\d+)\.2", r"upscale_block.block.\1.conv2"),
    (r"^decoder\.upscale\.(\d+)\.3", r"upscale_block.block.\1.layernorm2d"),
)


def theirs_of(ours: Segmentor) -> Any:
    """EoMT of transformers with the tensors of ours."""
    module = pytest.importorskip("transformers.models.eomt.modeling_eomt")
    config = module.EomtConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        mlp_ratio=4,
        image_size=SIDE,
        patch_size=16,
        num_register_tokens=2,
        num_blocks=BLOCKS,
        num_upscale_blocks=2,
        num_queries=QUERIES,
        num_labels=K,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    theirs = module.EomtForUniversalSegmentation(config).double()
    state = dict(theirs.state_dict())
    for name, value in ours.state_dict().items():
        if split := re.match(r"^backbone\.model\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", name):
            for part, own in zip("qkv", value.chunk(3), strict=True):
                state[f"layers.{split[1]}.attention.{part}_proj.{split[2]}"] = own
            continue
        match = next(other for pattern, new in NAMES if (other := re.sub(pattern, new, name)) in state)
        state[match] = value.reshape(state[match].shape)
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("training", [True, False])
def test_every_prediction_is_that_of_transformers(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = network_of()
    theirs = theirs_of(ours).train(training)
    theirs.attn_mask_probs.fill_(1.0 if training else 0.0)
    expected: list[tuple[Tensor, Tensor]] = []
    predict = theirs.predict
    monkeypatch.setattr(theirs, "predict", lambda tokens: expected.append(predict(tokens)) or expected[-1])
    softmax = torch.nn.functional.softmax  # theirs is in single precision
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim=dim))
    theirs(image())
    ours.train(training)
    backbone: Any = ours.backbone
    tokens, state = backbone.tokens_before(DEPTH - BLOCKS, image())
    found = ours.decoder(tokens, state, backbone)
    assert len(found) == len(expected) == (BLOCKS + 1 if training else 1)
    for one, (masks, classes) in zip(found, expected, strict=True):
        torch.testing.assert_close(one.masks, masks, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(one.classes, classes, rtol=1e-9, atol=1e-9)
    if training:
        plain = ours.eval()(image())
        assert not torch.allclose(plain.logits, ours.train()(image()).logits)  # the masks made a difference


def test_without_masks_it_is_a_plain_vision_transformer_with_heads() -> None:
    network = network_of().eval()
    backbone: Any = network.backbone
    decoder: Any = network.decoder
    tokens, state = backbone.embed(image())
    for number in range(DEPTH - BLOCKS):
        tokens = backbone.model.blocks[number](tokens)
    tokens = torch.cat([decoder.queries.expand(2, -1, -1), tokens], 1)
    for number in range(DEPTH - BLOCKS, DEPTH):
        tokens = backbone.model.blocks[number](tokens)
    expected = decoder.predict(tokens, state, backbone)
    tokens, state = backbone.tokens_before(DEPTH - BLOCKS, image())
    (found,) = decoder(tokens, state, backbone)
    assert isinstance(found, MaskPrediction)
    torch.testing.assert_close(found.masks, expected.masks, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.classes, expected.classes, rtol=1e-12, atol=1e-12)


def test_at_the_end_of_the_run_training_is_without_masks() -> None:
    network = network_of()
    network.decoder.prepare(1.0)
    plain = network.eval()(image()).logits
    torch.testing.assert_close(network.train()(image()).logits, plain, rtol=1e-12, atol=1e-12)
    network.decoder.prepare(0.0)
    assert not torch.allclose(network(image()).logits, plain)


def test_masks_are_given_up_block_by_block_and_a_little_more_each_time() -> None:
    decoder: Any = network_of().decoder
    shares = torch.tensor([decoder.shares(step / 100) for step in range(101)])
    assert bool((shares[:21] == 1).all())  # of five parts the first
    assert bool((shares[80:] == 0).all())
    assert bool((shares.diff(dim=0) <= 0).all())
    for number in range(BLOCKS):
        within = shares[21 + 20 * number : 40 + 20 * number, number]
        assert bool(((within > 0) & (within < 1)).all())
        assert bool((within.diff() < 0).all())
    assert shares[30, 0].item() == pytest.approx(0.5**0.9)


def test_which_queries_read_their_mask_alone_depends_on_the_progress() -> None:
    decoder: Any = network_of(queries=400).decoder
    before = torch.random.get_rng_state()
    decoder.prepare(0.3)
    first = copy.deepcopy(decoder.masked)
    assert torch.equal(torch.random.get_rng_state(), before)
    decoder.prepare(0.30001)
    assert not torch.equal(decoder.masked[0], first[0])
    decoder.prepare(0.3)
    assert torch.equal(decoder.masked[0], first[0])
    assert first[0].float().mean().item() == pytest.approx(0.5**0.9, abs=0.08)
    assert first[1].all()


def test_a_query_reads_the_patches_of_its_mask_and_everything_else_reads_everything() -> None:
    decoder: Any = network_of().decoder
    masks = torch.full((1, QUERIES, 8, 8), -1.0)
    masks[0, 0, :4] = 1
    own = torch.tensor([True, True, False, True, True, True])
    grid, prefix = (4, 4), 3
    read = decoder.readable(masks, own, QUERIES + prefix + 16, grid)[0, 0]
    patches = read[:, QUERIES + prefix :]
    assert patches[0].tolist() == [True] * 8 + [False] * 8
    assert not patches[1].any()  # its mask is empty
    assert patches[2].all()  # reads everything in this batch
    assert bool(read[:, : QUERIES + prefix].all())
    assert bool(read[QUERIES:].all())


@pytest.mark.parametrize("size", [(33, 33), (47, 80)])
def test_images_of_any_size_have_masks_over_what_is_padded(size: tuple[int, int]) -> None:
    output = network_of().train()(image(*size))
    padded = tuple(-(-side // 16) * 4 for side in size)
    assert output.logits.shape == (2, K, *size)
    assert all(one.masks.shape == (2, QUERIES, *padded) for one in output.masks)


def test_every_parameter_that_is_trained_has_a_gradient() -> None:
    network = network_of().train()
    torch.autograd.backward([part.square().mean() for one in network(image()).masks for part in one])
    assert [name for name, own in network.named_parameters() if own.requires_grad and own.grad is None] == []
    assert network.backbone.get_parameter("model.norm.weight").grad is not None


def test_the_norm_stays_where_the_blocks_are_frozen() -> None:
    backbone = backbone_of()
    backbone.requires_grad_(False)
    EomtDecoder(backbone, K, HeadConfig(queries=QUERIES))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_losses_and_gradients_are_the_same_where_parts_are_recomputed() -> None:
    network = network_of().train()
    results = []
    for recompute in (False, True):
        network.recompute = recompute
        network.zero_grad()
        output = network(image())
        torch.autograd.backward([part.square().mean() for one in output.masks for part in one])
        results.append({name: own.grad for name, own in network.named_parameters() if own.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-12, atol=1e-12)


def test_a_copy_has_blocks_of_its_own_and_no_tensor_twice() -> None:
    network = network_of().eval()
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    assert len(names) == len(dict(network.named_parameters()))
    twin = copy.deepcopy(network)
    expected = network(image()).logits
    with torch.no_grad():
        network.backbone.get_parameter("model.blocks.4.mlp.fc1.weight").zero_()
    torch.testing.assert_close(twin(image()).logits, expected, rtol=0, atol=0)
    assert not torch.allclose(network(image()).logits, expected)


@pytest.mark.parametrize(("patch", "stride"), [(16, 4), (8, 4), (14, 7), (32, 4)])
def test_masks_are_as_fine_as_four_pixels_at_most(patch: int, stride: int) -> None:
    backbone = backbone_of(patch=patch)
    decoder = EomtDecoder(backbone, K, HeadConfig(queries=QUERIES, blocks=1)).eval()
    size = 4 * patch
    (found,) = decoder(*backbone.tokens_before(4, torch.randn(1, 3, size, size)), backbone)
    assert found.masks.shape[2:] == (size // stride, size // stride)


def test_what_makes_no_sense_is_refused_by_name() -> None:
    plain = Backbone({"stem": 4, "layer1": 8, "layer2": 8}, {"stem": 2, "layer1": 4, "layer2": 8})
    with pytest.raises(UsageError, match=r"eomt.*vision transformer.*mask2former"):
        EomtDecoder(plain, K, HeadConfig())
    with pytest.raises(UsageError, match=r"model\.head\.blocks is 6.*has 5 blocks"):
        EomtDecoder(backbone_of(), K, HeadConfig(blocks=6))
    backbone = backbone_of()
    decoder = EomtDecoder(backbone, K, HeadConfig(blocks=4))
    with pytest.raises(UsageError, match=r"after block1.*from block1 on.*model\.head\.blocks"):
        Segmentor(backbone, decoder, None, taps={"embed": torch.nn.Identity(), "block1": torch.nn.Identity()})


@pytest.mark.parametrize(
    ("name", "value"), [("pyramid", "deconv"), ("pyramid", "resize"), ("norm", True), ("taps", [0, 1, 2, 4])]
)
def test_settings_of_maps_are_refused_where_no_map_is_read(name: str, value: Any) -> None:
    message = (
        rf"model\.features\.{name} is {re.escape(str(value))}, and the decoder eomt reads .* no maps: leave it out"
    )
    with pytest.raises(UsageError, match=message):
        EomtDecoder(backbone_of(FeaturesConfig(**{name: value})), K, HeadConfig())


def test_a_layer_between_the_blocks_before_the_queries_is_reached() -> None:
    backbone = backbone_of()
    decoder = EomtDecoder(backbone, K, HeadConfig(queries=QUERIES, blocks=BLOCKS))
    torch.manual_seed(0)
    network = Segmentor(backbone, decoder, None, taps={"block1": torch.nn.Tanh()}).eval()
    with torch.no_grad():
        expected = Segmentor(backbone, decoder, None).eval()(image().float()).logits
        assert not torch.allclose(network(image().float()).logits, expected)
