"""The review sheet: which polygons it shows, in which order, with what; and that the page works without a server."""

import base64
import io
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image
from report_page import annotation
from shapely import box

from wsplf_cli import cli
from wsplf_cli.commands.report import report
from wsplf_cli.errors import SlideError
from wsplf_cli.options import ReportOptions
from wsplf_cli.report import review_sheet
from wsplf_cli.report.review_sheet import MOST_CARDS_WITH_THUMBNAILS, thumbnail_side_px
from wsplf_cli.schema import DISPUTED_KEY, READERS_KEY, REVIEWED_KEY

SQUARE = box(400, 300, 500, 360)


def pending(shape=SQUARE, confidence=0.5, **fields):
    measurements = {} if confidence is None else {"wsplf: confidence": confidence}
    return annotation(shape, **({"origin": "pseudolabel", "measurements": measurements} | fields))


class Sheet:
    """The page of a review sheet: its text, its cards and their thumbnails."""

    def __init__(self, path, failed):
        self.failed = failed
        self.html = path.read_text(encoding="utf-8")
        self.cards = json.loads(re.search(r'id="data">(.*?)</script>', self.html, re.S)[1])
        self.thumbnails = [
            text.split("\n")
            for text in re.findall(r'<script type="text/plain" id="t\d+">(.*?)</script>', self.html, re.S)
        ]


@pytest.fixture
def sheet_of(memory_project, recorder, tmp_path):
    """Writes the sheet of entries with the given annotations (by entry id)."""

    def make(entries, annotations):
        project = memory_project(entries)
        project.annotations = annotations if callable(annotations) else lambda entry_id: annotations.get(entry_id, [])
        options = ReportOptions(review=True, out=tmp_path / "sheet.html")
        written = report(project, entries, options, recorder)
        return Sheet(written.page, written.failed)

    return make


@pytest.fixture
def entry(make_entry, tiny_slide):
    return make_entry("S01.tif", slide_path=tiny_slide)


def test_pending_polygons_come_least_certain_first(entry, sheet_of):
    unknown = pending(confidence=None)
    polygons = [pending(confidence=value) for value in (0.9, 0.2, 0.6)]
    sheet = sheet_of([entry], {"1": [*polygons, unknown]})
    assert [card["confidence"] for card in sheet.cards] == [None, 0.2, 0.6, 0.9]
    assert sheet.cards[1]["id"] == str(polygons[1].id)
    assert "4 pending polygons on 1 slide." in sheet.html


def test_only_what_nobody_decided_on_is_shown(entry, make_entry, tiny_slide, sheet_of):
    reviewed = make_entry("S02.tif", slide_path=tiny_slide, metadata={REVIEWED_KEY: "A. Person"})
    decided = [pending(review="accepted"), pending(locked=True), pending(edited=True), annotation(SQUARE)]
    prediction = pending(origin="prediction")
    sheet = sheet_of([entry, reviewed], {"1": [*decided, prediction], "2": [pending()]})
    assert [(card["id"], card["origin"]) for card in sheet.cards] == [(str(prediction.id), "prediction")]


def test_a_card_has_slide_coordinates_and_the_area_of_the_present_shape(entry, sheet_of):
    stale = pending(measurements={"wsplf: confidence": 0.5, "wsplf: area um^2": 7.0})
    (card,) = sheet_of([entry], {"1": [stale]}).cards
    assert card["slide"] == "S01.tif"
    assert (card["x"], card["y"], card["width"], card["height"]) == (450, 330, 100, 60)
    assert card["area"] == pytest.approx(100 * 60 * 0.25)
    assert card["class"] == "Tumor"


def test_two_thumbnails_show_the_polygon_and_its_surroundings(entry, sheet_of):
    sheet = sheet_of([entry], {"1": [pending()]})
    (pair,) = sheet.thumbnails
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in pair]
    assert [picture.size for picture in pictures] == [(200, 200)] * 2
    close, surroundings = sheet.cards[0]["outlines"]
    x, y = (sorted(map(float, re.findall(pattern, close))) for pattern in (r"([\d.]+) ", r" ([\d.]+)"))
    # the polygon is 100 x 60 pixels in a window of 150, shown on 200
    assert x == pytest.approx([33.3, 33.3, 166.7, 166.7], abs=0.1)
    assert y == pytest.approx([60, 60, 140, 140], abs=0.1)
    xs = [float(x) for x in re.findall(r"([\d.]+) [\d.]+", surroundings)]
    assert max(xs) - min(xs) == pytest.approx(100 / (1500 / 0.5) * 200, abs=0.11)


def test_a_disputed_polygon_says_who_decided_what(entry, sheet_of):
    metadata = {DISPUTED_KEY: "Tumor", READERS_KEY: "A: accepted; B: rejected"}
    (card,) = sheet_of([entry], {"1": [pending(metadata=metadata)]}).cards
    assert card["disputed"] == "A: accepted; B: rejected"


def test_a_polygon_of_a_slide_that_cannot_be_read_has_a_card_that_says_why(make_entry, sheet_of):
    gone = make_entry("gone.tif", problem="gone.tif: the slide is not there; give its folder", mpp=0.5)
    sheet = sheet_of([gone], {"1": [pending()]})
    assert sheet.cards[0]["problem"] == "gone.tif: the slide is not there"
    assert sheet.cards[0]["area"] == pytest.approx(1500)
    assert sheet.thumbnails == [[""]]


def test_without_a_pixel_size_the_measured_area_counts(make_entry, sheet_of):
    gone = make_entry("gone.tif", problem="gone.tif: no slide", mpp=None)
    (card,) = sheet_of([gone], {"1": [pending(measurements={"wsplf: area um^2": 7.0})]}).cards
    assert card["area"] == 7.0
    assert card["confidence"] is None


def test_an_entry_whose_annotations_cannot_be_read_is_named(entry, make_entry, tiny_slide, sheet_of, recorder):
    broken = make_entry("broken.tif", slide_path=tiny_slide)

    def annotations(entry_id):
        if entry_id == "2":
            raise SlideError("data.qpdata: cut short")
        return [pending()]

    sheet = sheet_of([entry, broken], annotations)
    assert len(sheet.cards) == 1
    assert sheet.failed == 1
    assert "broken.tif: data.qpdata: cut short" in sheet.html
    assert any("broken.tif" in line for line in recorder.said)


def test_the_page_is_small_enough_with_thousands_of_polygons():
    assert thumbnail_side_px(10) == 200
    assert 96 < thumbnail_side_px(5000) < 130
    assert MOST_CARDS_WITH_THUMBNAILS > 7000


def test_polygons_beyond_what_a_page_holds_have_no_thumbnail(entry, sheet_of, monkeypatch):
    monkeypatch.setattr(review_sheet, "MOST_CARDS_WITH_THUMBNAILS", 1)
    sheet = sheet_of([entry], {"1": [pending(confidence=0.9), pending(confidence=0.1)]})
    assert [bool(card["problem"]) for card in sheet.cards] == [False, True]
    assert "first 1 have thumbnails" in sheet.cards[1]["problem"]


def test_names_cannot_leave_the_data(make_entry, tiny_slide, sheet_of):
    name = "</script><script>alert(1)</script>"
    sheet = sheet_of([make_entry(name, slide_path=tiny_slide)], {"1": [pending()]})
    assert sheet.cards[0]["slide"] == name
    assert "<script>alert" not in sheet.html


def test_the_page_asks_for_nothing_from_elsewhere(entry, sheet_of):
    html = sheet_of([entry], {"1": [pending()]}).html
    code = re.sub(r'<script type="text/plain".*?</script>', "", html, flags=re.S).replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|<link|<iframe", code)
    assert "src=" not in html


def test_the_command_writes_the_sheet_beside_the_project(tiny_project, capsys):
    assert cli.main(["report", str(tiny_project), "--review"]) == 0
    assert "Nothing is left to decide" in (tiny_project.parent / "wsplf" / "review.html").read_text()
    assert not (tiny_project.parent / "wsplf" / "report.html").exists()
    assert cli.main(["report", str(tiny_project), "--review", "--scores", "x.json"]) == 2
    assert "--scores has no effect with --review" in capsys.readouterr().err


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

PRESSES = """
<script>
const press = (key, node) => (node || document.activeElement).dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const focused = () => document.activeElement.dataset.index;
const log = [];
log.push(list.children.length, count.textContent);
press("ArrowRight", document.body); log.push(focused());
press("ArrowRight"); log.push(focused());
press("ArrowDown"); log.push(Number(focused()) === 1 + columns());
press("End"); log.push(focused(), list.children.length);
press("Home"); log.push(focused());
press("/"); log.push(document.activeElement.id);
get("filter").value = "s02"; get("filter").dispatchEvent(new Event("input")); log.push(count.textContent);
press("Escape"); log.push(focused());
get("filter").value = ""; get("order").value = "large"; get("order").dispatchEvent(new Event("change"));
log.push(list.firstElementChild.dataset.index);
get("most").value = "0.25"; get("most").dispatchEvent(new Event("input")); log.push(count.textContent);
press("ArrowRight", document.body); press("Enter");
setTimeout(() => {
  log.push(toast.textContent);
  log.push([...document.querySelectorAll("img")].some(image => image.src.startsWith("data:image/jpeg")));
  document.body.replaceChildren(JSON.stringify(log));
}, 500);
</script>
</body>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_is_used_with_the_keyboard(entry, make_entry, tiny_slide, sheet_of, tmp_path):
    other = make_entry("S02.tif", slide_path=tiny_slide)
    first = [pending(box(400, 300, 440 + index, 340), confidence=index / 100) for index in range(60)]
    sheet = sheet_of([entry, other], {"1": first, "2": [pending(confidence=0.99)]})
    page = tmp_path / "pressed.html"
    page.write_text(sheet.html.replace("</body>", PRESSES), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [BROWSER, *options, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    log = json.loads(re.search(r"<body>\s*(\[.*\])\s*</body>", dom, re.S)[1].replace("&gt;", ">"))
    assert log[:4] == [48, "61 of 61", "0", "1"]
    assert log[4:8] == [True, "60", 61, "0"]
    assert log[8:11] == ["filter", "1 of 61", "60"]
    assert log[11:13] == ["60", "26 of 61"], "the largest first; then those with a confidence up to 0.25"
    assert log[13].startswith("Copied: S01.tif  x 432 y 320")
    assert log[14] is True
