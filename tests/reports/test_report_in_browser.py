"""The report as a reader has it: opened in Chromium from its file, without a network."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from spcnet.config import DataConfig
from spcnet.reports.page import write_report
from spcnet.reports.runs import load_run
from tests.support.browser import Visit, chromium
from tests.support.cards import write_card
from tests.support.report_factory import result_record, small_domains, write_lines, write_run

TARGETS = ["cityscapes", "bdd100k", "mapillary"]

CONTRAST = """() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const paint = (color) => { context.fillStyle = color; context.fillRect(0, 0, 1, 1); };
  const light = () => {
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)
      .map((value) => value / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, svg") || !element.checkVisibility()) continue;
    paint(getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "black" : "white");
    const above = [];
    for (let one = element; one; one = one.parentElement) above.unshift(getComputedStyle(one).backgroundColor);
    above.forEach(paint);
    const ground = light();
    paint(getComputedStyle(element).color);
    const ink = light();
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    found.push([Math.round(100 * ratio) / 100, node.data.trim().slice(0, 40), element.className]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""
"""Contrast of every visible text to what lies behind it (WCAG 2), the worst first."""

SHOWN = (
    "img => { const c = img.parentElement.querySelector('canvas'); return c && !c.hidden ? c.toDataURL() : img.src; }"
)
"""What is to be seen in the place of a class map."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with everything: seeds, images, published rows, other protocols, a robustness card."""
    root = tmp_path_factory.mktemp("runs")
    runs = []
    for method, quality, seeds in (("deeplabv3plus", 0.6, 1), ("isw", 0.68, 1), ("spcnet", 0.75, 2)):
        for seed in range(seeds):
            folder = write_run(
                root / f"{method}-{seed}",
                method=method,
                seed=seed,
                quality=quality,
                panels=True,
                backbone="resnet50",
                data=DataConfig(sources=["gtav"], targets=TARGETS, size=(512, 1024)),
            )
            write_lines(
                folder / "protocols.jsonl",
                [result_record(method, seed, 600, small_domains(cityscapes=0.41, bdd100k=0.4), protocol="robustnet")],
            )
            runs.append(load_run(folder))
    write_card(root / "card", [run.folder.name for run in runs[:2]], methods=["deeplabv3plus", "isw"])
    return write_report(runs, root / "page" / "report.html").as_uri()


@pytest.fixture(scope="module")
def visit(browser: Any, url: str) -> Iterator[Visit]:
    with Visit(browser, url) as found:
        yield found


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_a_network_and_is_no_wider_than_the_window(browser: Any, url: str, width: int) -> None:
    with Visit(browser, url, width=width) as visit:
        visit.look("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert visit.look("document.documentElement.scrollWidth") == width
        assert visit.look(
            "[...document.images].every(one => one.complete ? one.naturalWidth > 0 : one.loading == 'lazy')"
        )
        assert {address.split(":")[0] for address in visit.requests} <= {"file", "data"}
        assert visit.complaints == []


def test_bars_fit_a_phone_and_differences_a_desktop(browser: Any, url: str) -> None:
    with Visit(browser, url, width=390) as visit:
        left, right = visit.look(
            "(({left, right}) => [left, right])(document.querySelector('#classes .bars svg').getBoundingClientRect())"
        )
        assert 0 <= left < right <= 390
    with Visit(browser, url, width=1280) as visit:
        assert visit.look(
            "[...document.querySelectorAll('#classes .maps .scroll')].map(one => one.scrollWidth - one.clientWidth)"
        ) == [0, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Any, url: str, scheme: str) -> None:
    with Visit(browser, url, color_scheme=scheme) as visit:
        visit.look("document.querySelectorAll('details').forEach(one => one.open = true)")
        worst = visit.look(CONTRAST)
        assert len(worst) > 300
        assert worst[0][0] >= 4.5, worst[:5]


def test_the_switch_goes_before_what_the_system_says(browser: Any, url: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with Visit(browser, url, color_scheme="light") as visit:
        light = visit.look(ground)
        visit.page.get_by_text("dark", exact=True).click()
        assert visit.look(ground) != light
        visit.page.get_by_text("auto", exact=True).click()
        assert visit.look(ground) == light


def test_an_image_opens_large_and_the_keyboard_goes_on_from_there(visit: Visit) -> None:
    page = visit.page
    images = page.locator("#images .zoom")
    dialog, heading = page.locator("dialog"), page.locator("dialog h2")
    images.nth(0).click()
    assert dialog.is_visible()
    first = heading.inner_text()
    assert first == "scene-0 of cityscapes: image"
    large = page.locator("dialog .stage img").bounding_box()
    assert large["width"] > 2 * images.nth(0).bounding_box()["width"]
    page.keyboard.press("ArrowRight")
    assert heading.inner_text() == "scene-0 of cityscapes: truth"
    page.keyboard.press("ArrowDown")
    assert heading.inner_text() == "scene-17 of cityscapes: truth"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert heading.inner_text() == first
    page.keyboard.press("s")
    assert page.locator("dialog .stage figure").count() == 2 + 3  # image, truth, three methods
    assert "isw, " in page.locator("dialog .stage figcaption").nth(3).inner_text()
    page.keyboard.press("ArrowRight")
    assert heading.inner_text() == "scene-17 of cityscapes"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert visit.look("document.activeElement.ariaLabel") == "Enlarge: Image scene-17 of cityscapes"
    assert visit.complaints == []


def test_a_class_can_be_hidden_and_all_of_them(visit: Visit) -> None:
    page = visit.page
    map_ = page.locator("#images img.map").first
    before = map_.evaluate(SHOWN)
    sky = page.get_by_role("button", name="sky")
    sky.click()
    without = map_.evaluate(SHOWN)
    assert without != before
    assert sky.get_attribute("aria-pressed") == "false"
    clear = """async (url) => { const image = new Image(); image.src = url; await image.decode();
      const canvas = document.createElement("canvas"); [canvas.width, canvas.height] = [image.width, image.height];
      const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
      const data = context.getImageData(0, 0, image.width, image.height).data;
      return data.filter((_, i) => i % 4 == 3 && data[i] == 0).length / (data.length / 4); }"""
    assert visit.look(clear, without) == pytest.approx(10 / 32)  # the rows of the factory's picture that are sky
    page.get_by_role("button", name="none").click()
    assert visit.look(clear, map_.evaluate(SHOWN)) == 1
    page.get_by_role("button", name="all classes").click()
    assert map_.evaluate(SHOWN) == before
    assert visit.complaints == []


def test_rows_are_sorted_by_a_click_and_published_ones_stay_below(visit: Visit) -> None:
    page = visit.page
    table = page.locator("table.sortable")
    names = lambda: [text.split("\n")[0] for text in table.locator("tbody:first-of-type th").all_inner_texts()]  # noqa: E731
    published = table.locator("tbody.published").inner_text()
    assert names() == ["deeplabv3plus", "isw", "spcnet"]
    head = table.locator("thead th", has_text="unseen").last
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names() == ["spcnet", "isw", "deeplabv3plus"]
    page.keyboard.press("Enter")  # the heading is a button, which has the focus
    assert head.get_attribute("aria-sort") == "ascending"
    assert names() == ["deeplabv3plus", "isw", "spcnet"]
    assert table.locator("tbody.published").inner_text() == published
    assert "not measured here" in published
    assert "SPC-Net" in published


def test_headings_are_in_order_and_what_can_be_used_has_a_name(visit: Visit) -> None:
    levels = visit.look(
        "[...document.querySelectorAll('header h1, main h1, main h2, main h3, main h4')].map(one => +one.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    nameless = """[...document.querySelectorAll("button, input, a, summary, [role=region], [role=img], img, dialog")].filter(one =>
      !(one.getAttribute("aria-label") || one.alt || one.innerText || one.textContent.trim() || one.labels?.length
        || one.getAttribute("aria-labelledby"))).map(one => one.outerHTML.slice(0, 80))"""
    assert visit.look(nameless) == []


def test_without_scripts_everything_is_there_to_read(browser: Any, url: str) -> None:
    with Visit(browser, url, java_script_enabled=False) as visit:
        page = visit.page
        assert page.locator("button").count() == 0
        assert page.locator("#images img").count() == 3 * 2 * 5  # domains, images, pictures of each
        assert page.locator("#images img").first.is_visible()
        assert page.locator("table.sortable tbody:first-of-type tr").count() == 3
        assert not page.get_by_text("Click an image").is_visible()
        page.get_by_text("dark", exact=True).click()  # the switch is style alone
        assert page.locator("#theme-dark").is_checked()


def test_on_paper_there_is_neither_night_nor_a_switch(browser: Any, url: str) -> None:
    with Visit(browser, url, color_scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        assert visit.look("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not visit.page.locator("nav").is_visible()
        assert not visit.page.locator(".theme").is_visible()
        assert visit.look(CONTRAST)[0][0] >= 4.5


def test_names_of_a_run_run_nothing(browser: Any, tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    domains = small_domains(source_a=0.6, fog=0.5)
    domains[evil] = domains.pop("fog")
    run = write_run(tmp_path / "a", method=evil, domains=domains, classes=[evil, *"bcdefg"], panels=True)
    (run / "environment.json").write_text(json.dumps({"spcnet": evil}))
    with Visit(browser, write_report([load_run(run)], tmp_path / "report.html", title=f"{evil}!").as_uri()) as visit:
        assert visit.page.title() == f"{evil}!"
        assert visit.page.locator("img[src=x]").count() == 0
        visit.page.locator("#images .zoom").nth(1).click()
        assert evil in visit.page.locator("dialog h2").inner_text()
        assert visit.page.title() == f"{evil}!"
        assert visit.complaints == []
