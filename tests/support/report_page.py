"""What the tests of the report share: a page as its text and attributes, and runs as files."""

import json
import re
from html.parser import HTMLParser
from uuid import uuid4

from wsplf_cli.schema import Annotation

TABLE = {
    "entries": [{"name": "p.tif", "dice": 0.5678, "iou": 0.4, "boundary_f1": 0.3, "fp_share": 0.02, "truth_um2": 9}],
    "mean_dice": 0.7654,
    "pooled_dice": 0.7,
    "pooled_iou": 0.6,
    "negative_fp_share": 0.0123,
}


class Page(HTMLParser):
    """What a test wants to know of a page: its text, attributes, and whether its tags close."""

    def __init__(self, html):
        super().__init__()
        self.words, self.attributes, self.open = [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.words.append(text)


def annotation(shape, **values):
    return Annotation(uuid4(), shape, "Tumor", **values)


def write_run(folder, name, *, curves=None, **record):
    run = folder / "wsplf" / "runs" / name
    run.mkdir(parents=True)
    values = {"stage": name.split("-")[1], "status": "done", "seconds": 61.0, "seed": 7, "device": "cpu"}
    values |= {"started": "2026-05-04T10:00:00+00:00", "version": "9.8.7", "command": f"wsplf {name}", "entries": []}
    (run / "run.json").write_text(json.dumps(values | record))
    if curves is not None:
        (run / "curves.json").write_text(json.dumps(curves))
    return run
