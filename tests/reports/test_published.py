import re
from pathlib import Path
from typing import Any

import pytest

from spcnet.config import DataConfig
from spcnet.errors import UsageError
from spcnet.evaluation.protocols import PROTOCOLS
from spcnet.reports.page import render_page
from spcnet.reports.published import PUBLISHED, SETS, beside, obstacles, set_of
from spcnet.reports.runs import Run, load_run
from tests.support.report_factory import small_domains, write_run


def run_on(folder: Path, *targets: str, method: str = "spcnet", limit: int = 0, **settings: Any) -> Run:
    """A run trained on GTAV at a size at which papers score, by default."""
    data = DataConfig(**({"sources": ["gtav"], "targets": list(targets), "size": (512, 1024)} | settings))
    path = write_run(folder, method=method, data=data, domains=small_domains(**dict.fromkeys(targets, 0.4)))
    if limit:
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("limit: 0", f"limit: {limit}"))
    return load_run(path)


def test_every_row_says_where_it_was_read_and_by_which_protocol() -> None:
    assert all(row.place and row.paper and row.backbone and row.sources for row in PUBLISHED)
    assert {row.protocol for row in PUBLISHED} <= {*PROTOCOLS, "own"}
    assert all(row.scores or row.mean is not None for row in PUBLISHED)
    assert all(0.2 < value < 0.9 for row in PUBLISHED for value in (*row.scores.values(), row.mean or 0.5))
    assert all(set(row.scores) <= set(SETS) for row in PUBLISHED)
    keys = [(r.method, r.backbone, r.sources, r.place, tuple(r.scores.items()), r.mean) for r in PUBLISHED]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("method", "backbone", "sources", "mean"),
    [
        ("DeepLabV3+", "ResNet-101", "gtav", 28.80),
        ("ISW (RobustNet)", "ResNet-101", "gtav", 36.99),
        ("SPC-Net", "ResNet-50", "gtav", 43.40),
        ("SPC-Net", "ResNet-50", "gtav+synthia", 45.97),
        ("SPC-Net", "ResNet-50", "gtav+synthia+idd", 57.63),
        ("SCSD", "ResNet-50, CLIP text", "gtav", 51.12),
        ("FAMix", "ResNet-101, CLIP", "gtav", 49.28),
        ("MFuser", "DINOv2-L + EVA02-L", "gtav", 68.20),
        ("SoMA", "DINOv2-L", "gtav", 68.27),
        ("RecycleLoRA", "DINOv2-L", "gtav", 68.95),
    ],
)
def test_means_are_the_published_ones(method: str, backbone: str, sources: str, mean: float) -> None:
    row = next(r for r in PUBLISHED if (r.method, r.backbone, "+".join(r.sources)) == (method, backbone, sources))
    assert row.mean == pytest.approx(mean / 100, abs=0.51e-4)


def test_only_a_whole_set_as_it_is_can_be_compared() -> None:
    assert set_of("cityscapes") == set_of("cityscapes@val") == "cityscapes"
    for other in ("cityscapes+fog", "cityscapes@train", "mapillary/x", "streets/night", "camvid", "no name at all"):
        assert set_of(other) is None


def test_runs_as_in_the_papers_have_published_rows_beside_them(tmp_path: Path) -> None:
    runs = [run_on(tmp_path / "a", *SETS[:3]), run_on(tmp_path / "b", *SETS[:3], method="isw")]
    assert obstacles(runs) == ()
    rows = beside(runs)
    assert {row.method for row in rows} == {"DeepLabV3+", "IBN-Net", "ISW (RobustNet)", "SPC-Net", "SCSD"}
    assert all(row.verified and row.sources == ("gtav",) for row in rows)
    every = beside(runs, every=True)
    assert all(row in every for row in rows)
    assert {"FAMix", "Rein", "RecycleLoRA"} < {row.method for row in every}
    assert all(row.sources == ("gtav",) for row in every)


def test_rows_of_one_set_stand_beside_runs_on_that_set(tmp_path: Path) -> None:
    rows = beside([run_on(tmp_path / "a", "cityscapes")])
    assert {"Rein", "TLDR"} < {row.method for row in rows}


@pytest.mark.parametrize(
    ("targets", "settings", "reason"),
    [
        (("cityscapes",), {"size": (256, 512)}, "Size: images were brought to 256×512"),
        (("cityscapes",), {"space": "idd7"}, "Classes: these runs have the label space idd7"),
        (("streets/night", "cityscapes+fog"), {}, "Sets: no unseen domain here is one of"),
        (("cityscapes",), {"sources": ["streets/game"]}, "Sources: trained on streets/game here"),
        (("cityscapes",), {"limit": 20}, "Images: only the first 20 of each domain"),
    ],
)
def test_what_cannot_be_compared_is_said(
    tmp_path: Path, targets: tuple[str, ...], settings: dict[str, Any], reason: str
) -> None:
    run = run_on(tmp_path / "a", *targets, **settings)
    assert [line for line in obstacles([run]) if line.startswith(reason)]
    text = render_page([run])
    assert 'class="published"' not in text
    assert '<details id="published"><summary>' in text
    assert "why they do not stand beside these" in text
    assert reason in text


def test_published_rows_are_marked_and_never_ranked(tmp_path: Path) -> None:
    runs = [run_on(tmp_path / "a", *SETS[:3], method="deeplabv3plus"), run_on(tmp_path / "b", *SETS[:3])]
    text = render_page(runs)
    own, published = text.split('<tbody class="published">')
    published = published.split("</tbody>")[0]
    assert published.count('<span class="tag">published</span>') == published.count('<th scope="row"') == 5
    assert "Published, not measured here" in published
    assert "ResNet-50 · protocol spcnet-official" in published
    assert re.findall(r"<td[^>]*>([\d.]*)</td>", published.split("spcnet-official")[1])[:4] == [
        "44.1",
        "40.5",
        "45.6",
        "43.4",
    ]
    assert "<b>" not in published
    assert "data-value" not in published
    assert "protocol spcnet" in own.split("<tbody>")[1]
    assert "SCSD" not in own


def test_what_is_shown_of_them_can_be_chosen(tmp_path: Path) -> None:
    runs = [run_on(tmp_path / "a", *SETS[:3])]
    assert "FAMix" in render_page(runs, published="all").split('<tbody class="published">')[1].split("</tbody>")[0]
    assert '<details id="published" open>' in render_page(runs, published="all")
    none = render_page(runs, published="none")
    assert "ublished" not in none.split("<section")[1]
    with pytest.raises(UsageError, match="unknown choice of published rows 'some'"):
        render_page(runs, published="some")
