"""The web demo as a visitor uses it, in a real browser: scenes, uploads, weather, the slider, errors, a phone."""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from spcnet.app.figures import Side, facts
from spcnet.app.page import STYLESHEET
from spcnet.app.server import running
from spcnet.app.uploads import Limits
from spcnet.labels import label_space
from spcnet.runs import OpenRun
from tests.support.browser import Visit, chromium
from tests.support.demo_networks import write_network

pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio av")
av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")

PICTURES = "#slider [data-testid=imageslider-image]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    ours = write_network(folder / "ours", "spcnet")
    theirs = write_network(folder / "theirs", "deeplabv3plus", seed=1, space="idd7")
    limits = Limits(megabytes=1, megapixels=1, seconds=1)
    with running([OpenRun(ours), OpenRun(theirs)], device="cpu", limits=limits) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(browser: Any, server: str) -> Iterator[Visit]:
    with opened(browser, server) as found:
        yield found


@pytest.fixture
def visit(page: Visit, server: str) -> Iterator[Visit]:
    """One visitor goes from test to test; none depends on where the one before left the page."""
    yield page
    # Gradio's own: of every upload, of one that is done before its progress is asked for, and of one that is refused.
    known = re.compile("Method not implemented\\.|Response|.*the server responded with a status of 4.*")
    assert not [said for said in page.complaints if not known.fullmatch(said)]
    foreign = [url for url in page.requests if not url.startswith((server, "data:", f"blob:{server}"))]
    assert not foreign


def opened(browser: Any, server: str, **options: Any) -> Visit:
    visit = Visit(browser, server, offline=False, **options)
    visit.page.wait_for_selector(PICTURES)
    visit.page.wait_for_function(f"document.querySelector('{PICTURES}').alt != ''")
    return visit


def pictures(visit: Visit) -> list[str]:
    found: list[str] = visit.look(f"[...document.querySelectorAll('{PICTURES}')].map((picture) => picture.src)")
    return found


def changed(visit: Visit, before: list[str]) -> list[str]:
    """The pictures once they are others, loaded."""
    visit.page.wait_for_function(
        f"""(before) => {{
          const now = [...document.querySelectorAll('{PICTURES}')];
          return now.length == 2 && now.some((p, i) => p.src != before[i]) && now.every((p) => p.complete && p.naturalWidth);
        }}""",
        arg=before,
    )
    return pictures(visit)


def choose(visit: Visit, field: str, words: str) -> None:
    visit.page.locator(f"#{field} input").click()
    visit.page.get_by_role("option", name=words, exact=True).click()


def give(visit: Visit, path: Path) -> None:
    visit.page.set_input_files("#upload input[type=file]", path)


def take_away(visit: Visit, *, then: list[str]) -> None:
    """Remove the upload, and wait for the pictures that the scene had."""
    visit.page.locator("#upload").get_by_label("Clear").click()
    visit.page.wait_for_function(f"(src) => document.querySelector('{PICTURES}').src == src", arg=then[0])


def photo(path: Path, *, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def film(path: Path, *, frames: int = 8) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(frames):
            image = np.full((64, 128, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_what_is_shown_has_names_and_nothing_foreign_is_asked_for(visit: Visit) -> None:
    assert visit.page.title() == "spcnet"
    alts = visit.look("[...document.querySelectorAll('img')].map((picture) => picture.alt)")
    assert all(alts)
    assert {"Left ours", "Right theirs", "night"} <= set(alts)
    facts = visit.page.locator("#result .facts").inner_text()
    for words in ("OOD score", "layer 1", "game", "no style layers", "Area of each class", "drivable", "road"):
        assert words in facts
    assert visit.page.locator("footer").count() == 0 or not visit.page.locator("footer").inner_text().strip()


def test_equal_areas_are_bars_of_equal_length(browser: Any, tmp_path: Path) -> None:
    known = label_space("idd7")
    shares = (0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0)
    sides = [Side(name, "", known, shares, {}, (), None, 0.1, "torch") for name in ("a", "a_network_with_a_long_name")]
    (tmp_path / "page.html").write_text(f"<style>{STYLESHEET.read_text()}</style>{facts(sides)}")
    for width in (390, 1280):
        with Visit(browser, (tmp_path / "page.html").as_uri(), width=width) as visit:
            left, right = visit.look(
                "[...document.querySelector('.areas tbody tr').querySelectorAll('.track i')].map((bar) => bar.offsetWidth)"
            )
            assert left == pytest.approx(right, abs=1)


def test_a_scene_that_is_clicked_is_shown(visit: Visit) -> None:
    before = pictures(visit)
    visit.page.get_by_label("Scene: night").click()
    assert set(changed(visit, before)).isdisjoint(before)


def test_weather_is_put_on_and_its_strength_changes_it(visit: Visit) -> None:
    before = pictures(visit)
    choose(visit, "style", "Weather: fog")
    foggy = changed(visit, before)
    assert "thick fog" in visit.page.locator("#result .facts").inner_text()
    visit.page.locator("#strength input[type=number]").fill("0.2")
    visit.page.locator("#strength input[type=number]").press("Enter")
    assert changed(visit, foggy) != before


def test_networks_are_switched_and_the_photo_laid_beside(visit: Visit) -> None:
    before = pictures(visit)
    choose(visit, "left", "theirs")
    left, right = changed(visit, before)
    assert left == right == before[1]
    visit.page.get_by_label("Photo | left network").check()
    changed(visit, [left, right])
    visit.page.wait_for_function(f"document.querySelector('{PICTURES}').alt == 'Left photo'")
    choose(visit, "left", "ours")
    visit.page.get_by_label("Two networks").check()
    visit.page.wait_for_function(f"document.querySelector('{PICTURES}').alt == 'Left ours'")


def test_the_border_is_moved_by_mouse_and_by_keys(visit: Visit) -> None:
    def border() -> str:
        found: str = visit.look(f"document.querySelectorAll('{PICTURES}')[1].style.clipPath")
        return found

    start = border()
    handle = visit.page.get_by_role("slider", name="Border between the left and the right picture")
    box = handle.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] - 150, box["y"] + box["height"] / 2, steps=4)
    visit.page.mouse.up()
    dragged = border()
    assert dragged != start
    handle.focus()
    visit.page.keyboard.press("ArrowRight")
    assert border() != dragged


def test_a_photo_is_uploaded_and_taken_away_again(visit: Visit, tmp_path: Path) -> None:
    before = pictures(visit)
    give(visit, photo(tmp_path / "own.png"))
    changed(visit, before)
    width, height = visit.look(
        f"[document.querySelector('{PICTURES}').naturalWidth, document.querySelector('{PICTURES}').naturalHeight]"
    )
    assert width / height == pytest.approx(120 / 80, rel=0.01)
    take_away(visit, then=before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no picture at all", "no picture of a known kind"),
        (b"", "is broken"),
        (b"0" * (2**20 + 1), "maximum allowed size"),
    ],
    ids=["text", "cut", "too large"],
)
def test_a_wrong_upload_gets_a_message_and_the_next_works(
    visit: Visit, tmp_path: Path, content: bytes, words: str
) -> None:
    before = pictures(visit)
    if not content:
        content = photo(tmp_path / "whole.jpg").read_bytes()[:2000]
    (tmp_path / "wrong.png").write_bytes(content)
    give(visit, tmp_path / "wrong.png")
    visit.page.get_by_text(words).first.wait_for()
    assert visit.page.locator("#result").get_by_text("Error", exact=True).count() <= 1  # told once, not on each part
    if "size" not in words:  # what is too large is not taken in at all
        visit.page.locator("#upload").get_by_label("Clear").click()
    give(visit, photo(tmp_path / "right.png", seed=1))
    changed(visit, before)
    take_away(visit, then=before)


def test_a_video_is_labelled_and_plays(visit: Visit, tmp_path: Path) -> None:
    before = pictures(visit)
    give(visit, film(tmp_path / "drive.mp4"))
    changed(visit, before)
    visit.page.get_by_role("button", name="Label the video").click()
    visit.page.wait_for_selector("#video video", state="attached")
    visit.page.wait_for_function("document.querySelector('#video video').readyState >= 2")
    seconds, width = visit.look(
        "(({duration, videoWidth}) => [duration, videoWidth])(document.querySelector('#video video'))"
    )
    assert seconds == pytest.approx(0.8, abs=0.15)
    assert width == 256
    assert "8 frames" in visit.page.locator("#film .facts").inner_text()
    take_away(visit, then=before)
    visit.page.wait_for_selector("#film", state="hidden")


def test_a_phone_shows_the_picture_first_and_is_not_scrolled_sideways(browser: Any, server: str) -> None:
    with opened(browser, server, width=390, color_scheme="dark") as visit:
        assert visit.look("document.documentElement.scrollWidth <= innerWidth")
        top, scenes, facts = (
            visit.look(f"document.querySelector('{name}').getBoundingClientRect().top")
            for name in ("#slider", "#scenes", "#result .facts")
        )
        assert top < scenes < facts
        ink, paper = visit.look(
            "[getComputedStyle(document.querySelector('h1')).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert brightness(ink) > 200 > 60 > brightness(paper)


def brightness(color: str) -> float:
    numbers = [float(part) for part in re.findall(r"[0-9.]+", color)[:3]]
    return sum(numbers) / 3 * (255 if color.startswith("color(") else 1)


def answer(server: str, path: str, *, body: Any = None) -> tuple[int, bytes]:
    """Status and content for a path as it is written: `..` stays."""
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=10)
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_nothing_outside_its_folder_is_served(server: str, folder: Path) -> None:
    model = folder / "ours" / "model.safetensors"
    served = answer(server, "/")[1].decode()
    own = served.split("gradio_api/file=")[1].split("/files/")[0]
    wanted = (
        "/etc/passwd",
        "../../../../etc/passwd",
        f"{own}/files/../../../etc/passwd",
        f"{own}/own/scene-0.png",
        str(model),
        quote(str(model), safe=""),
        "pyproject.toml",
        "http://127.0.0.1:1/",
        "https%3A%2F%2Fexample.org",
    )
    for path in wanted:
        status, content = answer(server, f"/gradio_api/file={path}")
        assert status in (403, 404), path
        assert b"root:" not in content
    for path in ("/static/../../../../etc/passwd", "/gradio_api/proxy=http://127.0.0.1:1/", "/monitoring", "/runs"):
        assert answer(server, path)[0] in (403, 404), path
    assert "content-security-policy" in {name.lower() for name, _ in _headers(server)}


def _headers(server: str) -> list[tuple[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=10)
    connection.request("GET", "/")
    return connection.getresponse().getheaders()


@pytest.mark.parametrize("path", ["http://127.0.0.1:1/a.png", "/etc/passwd"])
def test_a_made_up_upload_reads_nothing(server: str, path: str) -> None:
    config = json.loads(answer(server, "/config")[1])
    shows = next(entry for entry in config["dependencies"] if len(entry["inputs"]) == 8)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file, None, "none", 1.0, "Two networks", "ours", "theirs", 0.5]
    session = "made-up"
    status, _ = answer(
        server, "/gradio_api/queue/join", body={"data": data, "fn_index": shows["id"], "session_hash": session}
    )
    assert status == 200
    said = answer(server, f"/gradio_api/queue/data?session_hash={session}")[1].decode()
    assert '"success":false' in said
    assert "root:" not in said
