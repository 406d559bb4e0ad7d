"""What networks cost: Table 8 to every printed digit, and counts that can be checked by hand."""

import pytest
import torch

from spcnet.cli import main
from spcnet.cost import PAPER, Cost, cost, costs, paper_table
from spcnet.errors import UsageError
from spcnet.methods import METHODS, build_model
from spcnet.models.heads import DECODERS
from spcnet.models.heads.linear import LinearDecoder


def test_table_8_is_reproduced_to_every_printed_digit() -> None:
    rows = paper_table()
    assert [row[0] for row in rows] == list(PAPER)
    for _, parameters, operations, *printed in rows:
        assert [f"{parameters:.2f}", f"{operations:.2f}"] == [f"{value:.2f}" for value in printed]


def test_counts_grow_with_the_image_and_parameters_do_not() -> None:
    small, large = (cost("spcnet", "resnet18", size=size) for size in ((384, 384), (768, 768)))
    assert small.parameters == large.parameters
    assert large.macs == pytest.approx(4 * small.macs, rel=0.02)
    assert large.activations == pytest.approx(4 * small.activations, rel=0.02)
    assert small.seconds is None
    network = build_model("spcnet", backbone="resnet18")
    assert small.parameters == sum(p.numel() for p in network.parameters())


def test_what_is_kept_is_at_least_what_the_layers_return() -> None:
    network = build_model("deeplabv3plus", backbone="resnet18", output_stride=16).eval()
    returned: list[int] = []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, given, out: returned.append(4 * out.numel()))
    network(torch.zeros(1, 3, 128, 128))
    found = cost("deeplabv3plus", "resnet18", size=(128, 128)).activations
    assert sum(returned) < found < 4 * sum(returned)


def test_time_is_measured_when_asked_for() -> None:
    (found,) = costs(["deeplabv3plus"], ["shufflenet_v2"], size=(64, 64), repeats=1)
    assert isinstance(found, Cost)
    assert found.seconds is not None
    assert found.seconds > 0


def test_each_decoder_is_counted_and_what_does_not_fit_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unfit(LinearDecoder):
        def __init__(self, *given: object) -> None:
            raise UsageError("only for others")

    monkeypatch.setitem(DECODERS, "unfit", Unfit)
    linear, unfit, fine = costs(
        ["deeplabv3plus"], ["resnet18"], ["linear", "unfit", "segformer"], size=(64, 64), repeats=0
    )
    assert isinstance(unfit, UsageError)
    assert isinstance(linear, Cost)
    assert isinstance(fine, Cost)
    # A norm of 512 channels and a 1×1 convolution to 19 classes, for 4×4 cells.
    features = sum(p.numel() for p in build_model("deeplabv3plus", backbone="resnet18").backbone.parameters())
    assert linear.parameters - features == 2 * 512 + (512 + 1) * 19
    matrices = 256 * 256 * (64 + 128 + 256 + 512)  # each projection times its share
    maps = 256 * (16 * 16 * 64 + 8 * 8 * 128 + 4 * 4 * 256 + 4 * 4 * 512)
    assert fine.macs - linear.macs == matrices + maps + 16 * 16 * 256 * 19 - 4 * 4 * 512 * 19
    with pytest.raises(UsageError, match="Did you mean 'segformer'"):
        list(costs(None, None, ["segformr"], size=(64, 64), repeats=0))


def test_the_command_writes_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--methods=deeplabv3plus", "--backbones=shufflenet_v2", "--decoders=linear,conv4", "--size=[64,64]"]
    assert main(["cost", *options, "--repeats=0", "--markdown=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, rule, *rows = [line for line in lines if line.startswith("|")]
    assert head == "| backbone | decoder | method | M params | G MACs | MiB |"
    assert rule == "| --- | --- | --- | --: | --: | --: |"
    assert [row.split(" | ")[1] for row in rows] == ["linear", "conv4"]


@pytest.mark.slow
def test_the_command_prints_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--backbones=[shufflenet_v2]", "--size=[64,64]", "--repeats=0"]) == 0
    shown = capsys.readouterr().out
    assert all(method in shown for method in METHODS)
    assert main(["cost", "--paper"]) == 0
    assert shown.count("\n") > len(METHODS)
    assert "multiply-accumulates" in capsys.readouterr().out
    assert main(["cost", "--methods=[spcnt]"]) == 2
    assert "Did you mean 'spcnet'" in capsys.readouterr().err
