"""Adapters on a vision transformer of timm: SPC-Net on it trains two steps, is stored, opened, merged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Attention as Beit
from timm.models.swin_transformer_v2 import WindowAttention

from spcnet import checkpoint
from spcnet.config import AdapterConfig, ModelConfig
from spcnet.methods import rebuild
from spcnet.models.adapters import has_updates, merge
from spcnet.models.adapters.lora import adapt_layer, merge_layer
from spcnet.models.network import Segmentor
from tests.support import training

BACKBONE = "timm/vit_tiny_patch16_224"
ADAPTERS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "lora": {"rank": 2, "dropout": 0.1},
    "soma": {"kind": "lora", "rank": 2, "start": "soma", "first_block": 8, "biases": True},
    "rein": {"rank": 4, "tokens": 6},
}


def config(name: str) -> ModelConfig:
    adapter = AdapterConfig(**{"kind": name, **ADAPTERS[name]})
    return ModelConfig(backbone=BACKBONE, weights=None, decoder="linear", adapter=adapter)


@pytest.mark.parametrize("name", ADAPTERS)
def test_spcnet_with_an_adapter_trains_two_steps_and_comes_back(name: str, tmp_path: Path) -> None:
    settings = replace(training.settings(tmp_path, iterations=2), model=config(name))
    run = training.trainer(settings)
    network = run.network
    assert isinstance(network, Segmentor)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    run.fit([batch._replace() for batch in training.batches(0, 2)])
    after = network.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    base = network.base_tensors()
    assert not changed & base
    assert {"classifier.prototypes", "styles.0.base_mean", "styles.1.base_mean"} <= changed
    updates = {key for key in after if key.endswith(("lora_a", "lora_b"))}
    assert len(updates) == {"lora": 2 * 4 * 12, "soma": 2 * 4 * 4}.get(name, 0)
    assert {key for key in updates if "lora_b" in key} <= changed
    assert any(key.startswith("rein.a.") for key in changed) == (name == "rein")
    again = rebuild(checkpoint.read(run.finish()), "file")
    image = torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        wanted = network.eval()(image).logits
        torch.testing.assert_close(again(image).logits, wanted, rtol=0, atol=0)
        if has_updates(network):
            torch.testing.assert_close(merge(network)(image).logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [Beit, WindowAttention])
def test_blocks_that_read_the_weights_of_their_layers_get_the_update(kind: Any) -> None:
    torch.manual_seed(0)
    block = (kind(8, num_heads=2, qkv_bias=True) if kind is Beit else kind(8, (3, 3), num_heads=2)).double().eval()
    tokens = torch.randn(2, 9, 8).double()
    plain = block(tokens)
    adapt_layer("attn.qkv", block.qkv, rank=2)
    torch.testing.assert_close(block(tokens), plain)
    torch.nn.init.normal_(block.qkv.lora_b)
    updated = block(tokens)
    assert not torch.allclose(updated, plain)
    merge_layer(block.qkv)
    torch.testing.assert_close(block(tokens), updated)
