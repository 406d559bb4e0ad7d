import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spcnet.config import DataConfig
from spcnet.errors import DataError, UsageError
from spcnet.reports.costs import NetworkCost
from spcnet.reports.details import top_confusions
from spcnet.reports.html import document
from spcnet.reports.inspection import write_inspection
from spcnet.reports.page import render_page, write_report
from spcnet.reports.runs import Run, load_run
from tests.support.inspections import made
from tests.support.report_factory import TARGETS, result_record, small_domains, write_lines, write_run

VOID_TAGS = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags in order, checked to be balanced, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two methods, three seeds each, eight domains."""
    root = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(
            root / f"{method}-{seed}", method=method, seed=seed, quality=quality, evaluations=[300, 600], panels=True
        )
        for method, quality in (("deeplabv3plus", 0.6), ("spcnet", 0.75))
        for seed in range(3)
    ]
    return [load_run(folder) for folder in folders]


@pytest.fixture(scope="module")
def text(runs: list[Run]) -> str:
    return render_page(runs)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def small(folder: Path, *, method: str = "spcnet", **changes: Any) -> Run:
    return load_run(
        write_run(folder, **({"method": method, "domains": small_domains(source_a=0.6, fog=0.5)} | changes))
    )


def test_the_page_loads_nothing(page: Page, text: str) -> None:
    for name in ("src", "srcset", "data", "action", "background", "poster"):
        assert all(value.startswith("data:image/") for value in page.values(name))
    assert all(value.startswith("#") for value in page.values("href") + page.values("xlink:href"))
    before, script = text.split("<script>")
    assert not re.search(r"@import|url\((?!#)", before)
    assert not re.search(r"fetch|XMLHttp|import|https?:", script)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "base"})


def test_a_page_may_run_its_own_script_and_nothing_else(page: Page, text: str) -> None:
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]
    script = text.split("<script>")[1].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'; img-src data:;" in str(policy)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_every_link_leads_to_a_section_and_no_id_stands_twice(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href")} <= set(ids)


def test_everything_to_see_has_words_too(page: Page) -> None:
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for tag, attrs in page.tags if tag == "svg")
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags)
    assert page.values("lang") == ["en"]


def test_the_headline_says_the_figures_of_the_runs(page: Page, runs: list[Run]) -> None:
    means = {
        m: np.array([r.final.mean_unseen_miou for r in runs if r.method == m]) for m in ("deeplabv3plus", "spcnet")
    }
    ours, theirs = means["spcnet"], means["deeplabv3plus"]
    gap = f"+{100 * (ours.mean() - theirs.mean()):.1f}"
    assert (
        f"Best on the mean of {len(TARGETS)} domains that were never trained on: spcnet with {100 * ours.mean():.1f} %"
        in page.text
    )
    assert f"{gap} points from deeplabv3plus and above it on 3 of 3 seeds" in page.text
    assert f"± {100 * ours.std(ddof=1):.1f}" in page.text
    assert f"{gap} points from the baseline" in page.text


def test_a_worse_method_is_shown_as_worse(tmp_path: Path) -> None:
    worse = small(tmp_path / "s", domains=small_domains(source_a=0.6, fog=0.25))
    text = render_page([small(tmp_path / "d", method="deeplabv3plus"), worse])
    assert '<span class="worse">−25.0</span>' in text
    assert "better" not in re.findall(r'<span class="(\w+)">[+−]\d', text)


def test_every_part_is_there(page: Page) -> None:
    sections = [attrs.get("id") for tag, attrs in page.tags if tag == "section"]
    assert sections == ["results", "setting", "images", "classes", "training", "styles", "cost", "runs", "reading"]
    images = [tag for tag, _ in page.tags if tag == "img"]
    assert len(images) == len(TARGETS) * 2 * 4  # two images of each domain: image, truth, two methods
    assert (
        sum(tag == "details" for tag, _ in page.tags) == 1 + 2 * 6
    )  # published rows; each run, its precision and recall
    assert "streets/game, streets/toy" in page.text
    assert "0123456789ab" in page.text


def test_panels_say_how_much_is_right(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "a", panels=True, quality=2.0))  # nothing wrong
    words = Page(render_page([run], panels=1)).text
    assert words.count("100 % right") == len(TARGETS)
    assert "scene-0" in words
    assert "scene-17" not in words


def test_the_baseline_is_the_first_prediction_even_if_it_is_named_last(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / method, method=method, panels=True)) for method in ("spcnet", "deeplabv3plus")
    ]
    images = render_page(runs).split('<section id="images"')[1]
    assert 0 < images.index("deeplabv3plus</span></div>") < images.index("spcnet</span></div>")


def test_names_from_a_run_cannot_write_html(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    domains = small_domains(source_a=0.6, fog=0.5)
    domains[evil] = domains.pop("fog")
    run = load_run(write_run(tmp_path / "a", method=evil, domains=domains, classes=[evil, *"bcdefg"]))
    text = render_page([run], title=evil)
    assert text.count("<script") == 1  # the page's own
    assert evil in Page(text).text


def test_a_class_without_truth_pixels_is_no_zero_in_the_means_by_class(tmp_path: Path) -> None:
    domains = small_domains(source_a=0.6, fog=0.5, night=0.5)
    domains["fog"]["iou"]["train"] = 0.0  # predicted somewhere, nowhere true
    domains["fog"]["absent"] = ["train"]
    domains["night"]["iou"]["train"] = 0.83
    bars = render_page([small(tmp_path / "a", domains=domains)]).split('<section id="classes"')[1]
    assert ">83.0<" in bars
    assert ">41.5<" not in bars


def test_differences_by_class_are_method_minus_baseline(tmp_path: Path) -> None:
    domains = small_domains(source_a=0.6, fog=0.5)
    domains["fog"]["iou"]["car"] = 0.62
    text = render_page([small(tmp_path / "d", method="deeplabv3plus"), small(tmp_path / "s", domains=domains)])
    row = re.search(r'<th scope="row"><span[^>]*></span>car</th>(.*?)</tr>', text.split("class by class")[1])
    assert row is not None
    assert re.findall(r">([^<>]+)</td>", row[1]) == ["0.0", "+12.0"]


def test_one_run_makes_a_page_without_comparison(tmp_path: Path) -> None:
    page = Page(render_page([small(tmp_path / "a")]))
    assert "A run of spcnet" in page.text
    assert "reaches 50.0 % mIoU on the unseen domain." in page.text
    assert "baseline" not in page.text


def test_a_run_with_nothing_but_a_score_makes_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(fog=None))
    for name in ("train.jsonl", "environment.json"):
        (folder / name).unlink()
    page = Page(render_page([load_run(folder)]))
    assert "no score on unseen domains" in page.text
    assert "nan" not in page.text.lower().split()


def test_precision_recall_and_intervals_are_on_the_page(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "a"))
    words = Page(render_page([run])).text
    domain = run.final.domains["camvid"]
    assert domain.interval is not None
    low, high = domain.interval
    assert f"{100 * low:.1f}–{100 * high:.1f}" in words
    assert "Precision in %" in words
    row = words.split("Recall in %")[1].split("sidewalk")[0].split("road")[1]
    assert f"{100 * (domain.recall['road'] or 0):.1f}" in row


def test_other_protocols_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.6, fog=0.5, night=0.5))
    line = result_record("spcnet", 0, 600, small_domains(fog=0.123), protocol="rein")
    write_lines(folder / "protocols.jsonl", [line])
    results = render_page([load_run(folder)]).split('<section id="setting"')[0]
    board, others = results.split("<h3>Same network, other protocols</h3>")
    assert "12.3" not in board
    assert (
        '<td class="text">rein</td><td></td><td>12.3</td><td></td><td>12.3<span class="below std">of 1 domain</span></td>'
        in others
    )


def test_sets_of_ones_own_are_described_on_the_page(tmp_path: Path) -> None:
    domains = small_domains(source_a=0.6, mine=0.5)
    domains["mine"]["set"] = {"images": "photos/*.jpg", "labels": ["a/*.png", "b/*.png"], "root": "/data/town"}
    text = render_page([load_run(write_run(tmp_path / "a", domains=domains))])
    setting = text.split('<section id="setting"')[1].split("</section>")[0]
    assert "mine: /data/town (images photos/*.jpg, labels a/*.png, b/*.png)" in setting
    plain = render_page([load_run(write_run(tmp_path / "b", domains=small_domains(source_a=0.6, mine=0.5)))])
    assert "Own data sets" not in plain


def test_a_look_at_an_unfinished_network_says_after_how_many_iterations(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.6, fog=0.5))
    with (folder / "results.jsonl").open("a") as file:
        line = result_record("spcnet", 0, 700, small_domains(fog=0.123), partial=True)
        file.write(json.dumps(line) + "\n")
    results = render_page([load_run(folder)]).split('<section id="setting"')[0]
    board, others = results.split("<h3>Same network, other protocols</h3>")
    assert "12.3" not in board
    assert "whole images, one scale; after 700 iterations" in others


def test_costs_are_shown_as_counted_and_recorded(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "a"))
    counted = {run.folder: NetworkCost(45_081_542, 277_770_000_000, 3 * 2**20, (1024, 1024))}
    text = render_page([run], counted=counted).split('<section id="cost"')[1].split("</section>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert cells[:4] == ["resnet18", "45.08", "277.77", "3"]
    assert cells[5:] == ["0.8", "8 min", "8"]  # 800 images in 100 s
    assert "one image of 1024×1024" in text
    without = render_page([run]).split('<section id="cost"')[1].split("</section>")[0]
    assert "GMACs" not in without
    assert "s per step" in without


def test_what_was_seen_inside_a_network_is_on_the_page(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path / f"a{seed}", seed=seed)) for seed in range(2)]
    assert 'id="inside"' not in render_page(runs)
    write_inspection(made(2), runs[1].folder / "inspection")
    inside = render_page(runs).split('<section id="inside"')[1].split("</section>")[0]
    assert "seed 1" in inside
    assert "<svg" in inside


def test_a_run_that_diverged_makes_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", domains=small_domains(source_a=0.1, fog=0.1))
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"iteration": 620, "loss": NaN, "parts": {"ce": Infinity}}\n')
    Page(render_page([load_run(folder)]))


def test_warnings_are_on_the_page(tmp_path: Path) -> None:
    runs = [small(tmp_path / "a", method="deeplabv3plus"), small(tmp_path / "b", backbone="resnet50")]
    words = Page(render_page(runs)).text
    assert "Read with care" in words
    assert "the backbone differs: resnet18 (a); resnet50 (b)" in words
    assert "a difference of a point or two may be chance" in words


def test_methods_with_other_classes_are_left_out_of_the_classes_and_said_so(tmp_path: Path) -> None:
    other = small(tmp_path / "b", classes=list("abcdefg"), data=DataConfig(space="idd7"))
    words = Page(render_page([small(tmp_path / "a", method="deeplabv3plus"), other])).text
    assert "Left out, because their classes are others: spcnet." in words
    assert "the label space differs" in words


def test_the_page_is_written_whole_or_not_at_all(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "new" / "report.html"
    assert write_report(runs[:1], output) == output
    before = output.read_text(encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DataError, match=r"cannot write .*report.html: No space left"):
        write_report(runs[:2], output)
    assert output.read_text(encoding="utf-8") == before
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_a_folder_is_no_place_to_write_to(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is a folder"):
        write_report(runs[:1], tmp_path)


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to report"):
        write_report([], tmp_path / "report.html")


def test_the_page_stays_small(text: str) -> None:
    assert len(text) < 1_500_000


def test_the_worst_confusions_come_first() -> None:
    confusion = np.array([[80, 15, 5], [40, 60, 0], [0, 0, 0]])
    assert top_confusions(["a", "b", "c"], confusion, num=2) == [("b", "a", 0.4), ("a", "b", 0.15)]
    assert top_confusions(["a", "b"], np.array([[5, 0], [0, 5]])) == []


def test_reports_load_no_torch() -> None:
    code = "import sys, spcnet.reports.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_templates_escape_text_and_keep_the_spaces_of_sentences() -> None:
    page = document("<b>", [("a", "x & y", "<p>z</p>"), ("b", "empty", "")], version="1<2")
    assert page.startswith('<!DOCTYPE html>\n<html lang="en"><head>')
    assert "<h1>&lt;b&gt;</h1>" in page
    assert '<a href="#a">x &amp; y</a></nav>' in page
    assert '<h2 id="a-h">x &amp; y</h2><p>z</p></section></main>' in page
    assert "Written by spcnet 1&lt;2. This page is one file: it loads nothing and runs no scripts." in page
    assert "  " not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)
