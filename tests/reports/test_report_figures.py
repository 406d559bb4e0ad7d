import re
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from spcnet.errors import DataError
from spcnet.reports import figures
from spcnet.reports.figures import BASELINE_COLOR, Bars, Curve

SVG = "{http://www.w3.org/2000/svg}"


def all_figures() -> dict[str, str]:
    steps = list(range(0, 1000, 20))
    confusion = np.array([[90, 10, 0], [30, 70, 0], [0, 0, 0]])
    noisy = [1 / (1 + s) for s in steps]
    return {
        "curves": figures.curves_svg("a < b", [Curve(steps, noisy, "#0072b2", "--")], label="curves & more"),
        "points": figures.curves_svg("m", [Curve([1], [0.5], BASELINE_COLOR)], label="x", percent=True, smoothed=False),
        "bars": figures.bars_svg(["road", "<b>"], [Bars([0.5, None], BASELINE_COLOR, [0.1, None])], label='a "bar"'),
        "shares": figures.shares_svg("layer", ["fog"], [[0.25, 0.75]], label="shares"),
        "confusion": figures.confusion_svg("all", ["road", "sky", "<i>"], confusion, label="confusion"),
    }


def test_every_figure_is_well_formed_and_says_what_it_is() -> None:
    for name, text in all_figures().items():
        root = ET.fromstring(text)
        assert root.tag == f"{SVG}svg", name
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert root.get("width") is None, "a fixed width does not fit a phone"


def test_figures_on_one_page_do_not_share_ids() -> None:
    ids = [i for text in all_figures().values() for i in re.findall(r' id="([^"]+)"', text)]
    assert len(ids) == len(set(ids))
    for text in all_figures().values():
        for reference in re.findall(r"url\(#([^)]+)\)", text):
            assert f'id="{reference}"' in text


def test_figures_take_their_ink_from_the_page() -> None:
    for text in all_figures().values():
        assert "var(--muted)" in text
        assert "#010203" not in text
        assert "DejaVu" not in text
        assert not re.search(r"fill: #fff", text)


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    all_figures()
    assert dict(matplotlib.rcParams) == before


def test_the_same_figure_comes_out_the_same_twice() -> None:
    assert all_figures() == all_figures()


def test_figures_can_be_drawn_outside_the_main_thread() -> None:
    drawn: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: drawn.append(all_figures()))
    thread.start()
    thread.join()
    assert len(drawn) == 1


def test_the_smoothed_line_is_the_mean_of_its_neighbours() -> None:
    assert figures.smooth([1.0, 2.0, 6.0, 4.0, 5.0], window=3) == pytest.approx([1, 3, 4, 5, 5])


def test_smoothing_keeps_a_straight_line_straight() -> None:
    line = np.arange(20.0)
    assert figures.smooth(line, window=7) == pytest.approx(line)


def test_smoothing_leaves_gaps_where_the_log_has_none() -> None:
    smoothed = figures.smooth([1.0, float("nan"), 3.0, 5.0, 7.0], window=3)
    assert np.isnan(smoothed[1])
    assert smoothed[2] == pytest.approx(4.0)  # the mean of 3 and 5; the gap counts nowhere


def test_a_run_that_only_logged_nan_can_be_drawn() -> None:
    ET.fromstring(figures.curves_svg("loss", [Curve(range(30), [float("nan")] * 30, "#0072b2")], label="x"))


def test_every_method_has_its_own_colour_and_the_baseline_is_grey() -> None:
    colors = figures.group_colors(14, 2)
    assert colors[2] == BASELINE_COLOR
    assert colors[:2] == ("#0072b2", "#d55e00")
    assert len(set(colors)) == 14


def test_shares_of_a_row_without_pixels_are_unknown() -> None:
    shares = figures.row_shares(np.array([[3, 1], [0, 0]]))
    assert shares[0] == pytest.approx([0.75, 0.25])
    assert np.isnan(shares[1]).all()


def test_confusion_cells_stand_where_truth_and_prediction_say() -> None:
    root = ET.fromstring(all_figures()["confusion"])
    titles = {t.text for t in root.iter(f"{SVG}title")}
    assert titles == {
        "road taken for road: 90.0 %",
        "road taken for sky: 10.0 %",
        "sky taken for road: 30.0 %",
        "sky taken for sky: 70.0 %",
    }
    cells = {r.find(f"{SVG}title").text: r for r in root.iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None}
    wrong, right = cells["sky taken for road: 30.0 %"], cells["road taken for road: 90.0 %"]
    assert wrong.get("x") == right.get("x"), "the column is the prediction"
    assert float(wrong.get("y", 0)) > float(right.get("y", 0)), "the row is the truth"


def test_labels_keep_their_ids_through_a_file_and_get_the_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [1, 255]], dtype=np.uint8)
    path = tmp_path / "labels.png"
    image = Image.fromarray(labels, mode="P")
    image.putpalette([9, 9, 9] * 256)
    image.save(path)
    assert (figures.read_labels(path) == labels).all()
    uri = figures.labels_uri(labels, [(1, 2, 3), (4, 5, 6)])
    assert uri.startswith("data:image/png;base64,")
    (tmp_path / "out.png").write_bytes(__import__("base64").b64decode(uri.split(",")[1]))
    colored = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    assert colored.tolist() == [[[1, 2, 3], [4, 5, 6]], [[4, 5, 6], [0, 0, 0]]]


def test_pictures_are_made_small(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 800), (10, 200, 30)).save(tmp_path / "a.png")
    uri, size = figures.picture_uri(tmp_path / "a.png")
    assert size == (384, 192)
    assert len(uri) < 10_000


def test_a_broken_picture_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match="cannot read the picture"):
        figures.picture_uri(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="mode RGB: a panel's labels are a palette PNG"):
        figures.read_labels(tmp_path / "b.png")


def test_places_are_rounded_and_what_is_written_is_not() -> None:
    with matplotlib.rc_context(figures.PAGE_SETTINGS):
        figure = Figure(figsize=(3, 2))
        figure.text(0.123456, 0.5, "0.497")
        drawn = figures.page_svg(figure, label="a figure")
    assert ">0.497<" in drawn
    assert not re.search(r"<[^>]*\d\.\d{3}[^>]*>", drawn)
