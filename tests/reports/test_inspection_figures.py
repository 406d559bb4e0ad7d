"""The record of an inspection and what is drawn of it; no network is needed."""

import contextlib
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from spcnet.errors import DataError
from spcnet.reports.inspection import (
    RECORD_FILE,
    Domain,
    Inspection,
    Pair,
    nearest_csv,
    read_inspection,
    render_terminal,
    write_inspection,
)
from spcnet.reports.inspection_figures import DOMAIN_COLORS, PAPER, draw_weights, figures_of, write_figures
from spcnet.reports.inspection_page import inspection_section, render_page
from tests.support.inspections import made


def drawn(found: Inspection, layer: int = 0) -> Figure:
    figure = Figure()
    draw_weights(figure.add_subplot(), found, found.layers[layer], ink=PAPER)
    return figure


def same(one: Inspection, other: Inspection) -> bool:
    """Equal, NaN being equal to NaN."""
    return repr(replace(one, folder=Path())) == repr(replace(other, folder=Path()))


# --- The record ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [made(1), made(2), made(5), made(2, style=False, clusters=False)])
def test_a_record_is_read_as_it_was_written(found: Inspection, tmp_path: Path) -> None:
    write_inspection(found, tmp_path / "inspection")
    again = read_inspection(tmp_path)
    assert again is not None
    assert same(again, found)
    assert again.folder == tmp_path / "inspection"


def test_a_run_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_inspection(tmp_path) is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda v: v.update(format=99), "is no record of the format 1 (found: 99)"),
        (lambda v: v.pop("layers"), "is not whole (KeyError"),
        (lambda v: v["layers"][0]["before"].pop(), "layers, stem: before has 11 entries; it must have 12"),
        (lambda v: v["layers"][1]["weights"][3].pop(), "layers, layer1: weights has 1 entries; it must have 2"),
        (lambda v: v["pixels"]["label"].__setitem__(0, 3), "pixels.label has a number outside 0..2"),
        (lambda v: v["pairs"][0].update(image=12), "pairs has a number outside 0..11"),
        (lambda v: v["domains"][0].update(role="target"), "'target' is none of source, unseen"),
        (lambda v: v["images"][0].update(domain="x"), "is not whole (ValueError"),
        (lambda v: v["prototypes"]["cosine"].pop(), "prototypes has 5 entries; it must have 6"),
    ],
)
def test_a_spoilt_record_is_told_in_one_line(spoil: Any, words: str, tmp_path: Path) -> None:
    write_inspection(made(), tmp_path)
    values = json.loads((tmp_path / RECORD_FILE).read_text())
    spoil(values)
    (tmp_path / RECORD_FILE).write_text(json.dumps(values))
    with pytest.raises(DataError) as caught:
        read_inspection(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / RECORD_FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_file_is_a_data_error_or_a_record(place: int, bytes_there: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_inspection(made(images=2), path)
        content = bytearray((path / RECORD_FILE).read_bytes())
        content[place % len(content) : place % len(content) + len(bytes_there)] = bytes_there
        (path / RECORD_FILE).write_bytes(content)
        with contextlib.suppress(DataError):
            assert read_inspection(path) is not None


def test_a_record_shows_no_pictures_from_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "secret.jpg"
    Image.new("RGB", (8, 8)).save(elsewhere)
    found = replace(made(), pairs=(Pair(11, 0, 0.1, (str(elsewhere), "../../secret.jpg")),))
    write_inspection(found, tmp_path / "inspection")
    read = read_inspection(tmp_path)
    assert read is not None
    assert read.pairs[0].pictures == ("secret.jpg", "secret.jpg")
    assert "data:image" not in inspection_section(read).split("Pixels")[0]


# --- Drawing ---------------------------------------------------------------------------------------------------------


def test_with_two_styles_each_domain_has_a_strip_on_one_scale_for_all_places() -> None:
    found = made(2)
    one, other = drawn(found, 0).axes[0], drawn(found, 1).axes[0]
    assert [text.get_text() for text in one.get_yticklabels()] == ["source0", "source1", "unseen"]
    assert one.get_xlim() == other.get_xlim()
    assert sum(one.get_xlim()) == pytest.approx(100)
    low, high = one.get_xlim()
    assert all(low < 100 * row[1] < high for layer in found.layers for row in layer.weights)


def test_the_mean_of_each_domain_is_written() -> None:
    found = made(2)
    texts = [text.get_text() for text in drawn(found).axes[0].texts]
    means = [100 * np.mean([found.layers[0].weights[i][1] for i in found.of(d)]) for d in range(3)]
    assert texts == [f"{mean:.1f}" for mean in means]


def test_with_three_styles_the_triangle_holds_all_images_and_equal_shares_are_its_middle() -> None:
    found = made(3)
    third = 1 / 3
    equal = tuple((third, third, third) for _ in found.images)
    found = replace(found, layers=(replace(found.layers[0], weights=equal), found.layers[1]))
    axes = drawn(found, 0).axes[0]
    marks = np.concatenate([line.get_xydata() for line in axes.lines[2:]])
    assert marks == pytest.approx(np.zeros_like(marks), abs=2e-3)
    corners = axes.lines[0].get_xydata()[:3]
    marks = np.concatenate([line.get_xydata() for line in drawn(found, 1).axes[0].lines[2:]])
    parts = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), np.vstack([marks.T, np.ones(len(marks))]))
    assert parts.min() > 0
    assert parts.min() < 0.1, "the triangle is as small as it can be"


def test_with_one_style_there_is_no_figure_of_lambda() -> None:
    assert "weights" not in figures_of(made(1))
    assert "λ is 1 for every image" in inspection_section(made(1))


def test_with_many_styles_each_image_is_a_column_that_adds_up_to_all() -> None:
    axes = drawn(made(5)).axes[0]
    top = [patch.get_data().values for patch in axes.patches][4::5]
    assert np.concatenate(top) == pytest.approx(np.full(24, 100), abs=0.01)


@pytest.mark.parametrize("found", [made(2), made(3), made(5), made(2, style=False, clusters=False)])
def test_a_section_is_safe_to_put_into_a_page(found: Inspection) -> None:
    text = inspection_section(found)
    assert "#010203" not in text, "ink that stands for the page's"
    assert "#0a0b0c" not in text
    assert "nan" not in re.sub(r'="[^"]*"', "", text).lower().split()
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", text)
    for tag in ("div", "svg", "table", "ul", "figure", "p", "h3"):
        assert len(re.findall(rf"<{tag}[ >]", text)) == text.count(f"</{tag}>"), tag


def test_names_are_escaped() -> None:
    found = made()
    evil = '<b onload="x">'
    found = replace(
        found,
        run=evil,
        method=evil,
        classes=(evil, "car", "sky"),
        known=(evil, "source1"),
        domains=(Domain(evil, "source"), *found.domains[1:]),
        images=tuple(replace(image, name=evil) for image in found.images),
        prototypes=replace(found.prototypes, alike=((evil, evil, 0.1),)),
    )
    assert "<b onload" not in render_page([found])


def test_class_colours_are_mixed_with_ink_so_that_dark_ones_show_on_dark_pages() -> None:
    text = inspection_section(made())
    assert "color-mix(in srgb, #00008e 72%, var(--ink))" in text
    assert not re.search(r"(fill|stroke): #00008e", text)


def test_what_is_missing_is_said_and_its_figures_are_left_out() -> None:
    found = made(2, method="isw", style=False, clusters=False)
    text = inspection_section(found)
    assert "isw has no style layers" in text
    assert "isw has no prototypes" in text
    assert "Style weights" not in text
    assert "cosine" not in text
    assert set(figures_of(found)) == {"styles", "pixels"}


def test_pictures_are_shown_and_missing_ones_left_out(tmp_path: Path) -> None:
    found = replace(made(), folder=tmp_path)
    assert "Unseen pictures" not in inspection_section(found)
    (tmp_path / "pictures").mkdir()
    for name in found.pairs[0].pictures:
        Image.new("RGB", (20, 10)).save(tmp_path / "pictures" / name)
    assert inspection_section(found).count("data:image/jpeg") == 2


def test_figures_are_written_as_png_and_svg_and_come_out_the_same(tmp_path: Path) -> None:
    found = made()
    files = write_figures(found, tmp_path)
    assert {path.name for path in files} == {
        f"{name}.{kind}" for name in ("styles", "weights", "pixels", "prototypes") for kind in ("png", "svg")
    }
    before = {path: path.read_bytes() for path in files}
    write_figures(found, tmp_path)
    assert {path: path.read_bytes() for path in files} == before
    assert all(b"var(--" not in content for path, content in before.items() if path.suffix == ".svg")


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    inspection_section(made())
    figures_of(made())
    assert dict(matplotlib.rcParams) == before


def test_the_terminal_has_a_line_for_each_network() -> None:
    shown = render_terminal([made(), made(2, style=False, clusters=False)])
    assert shown.row_count == 2
    cells = [list(column.cells) for column in shown.columns]
    assert cells[1] == ["90 % → 50 %", "90 %"]
    assert cells[4] == ["0.50 in, 0.25 between classes", "–"]


def test_a_name_with_a_comma_stays_one_cell() -> None:
    found = made()
    found = replace(found, images=(replace(found.images[0], name='a, "b"'), *found.images[1:]))
    assert nearest_csv(found).splitlines()[1].startswith('source0,source,"a, ""b""",')


def test_no_two_of_twelve_domains_look_alike_where_colour_alone_tells_them() -> None:
    assert len(set(DOMAIN_COLORS)) == len(DOMAIN_COLORS) == 12


def test_words_on_the_map_of_pixels_do_not_lie_under_prototypes() -> None:
    found = made()
    drawn = figures_of(found)["pixels"].axes[0]
    words = [text for text in drawn.texts if text.get_text() in found.classes]
    assert words
    assert min(text.get_zorder() for text in words) > max(line.get_zorder() for line in drawn.lines)


def test_faint_marks_of_the_other_panel_are_in_the_legend_where_there_are_any() -> None:
    for style in (True, False):
        words = [text.get_text() for text in figures_of(made(style=style))["styles"].legends[0].get_texts()]
        assert ("the same images in the other panel" in words) is style
