import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from lsr_jax.report import html, results
from lsr_jax.report.html import Section
from lsr_jax.report.results import Table

EVIL = '<script>alert("1")</script>'
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Tags, text and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def make(tmp_path):
    Image.fromarray(np.zeros((20, 3000, 3), np.uint8)).save(tmp_path / "a.png")
    cells = results.text_table(
        {
            (f"target {EVIL}", "mIoU"): ("1.0", "2.0"),
            (f"target {EVIL}", EVIL): ("3.0", "a long cell " * 9),
        },
        (EVIL, "lsr"),
        "stage",
    )
    table = Table(EVIL, cells, [(EVIL, EVIL)])
    sections = (
        Section(EVIL, (table,)),
        Section("empty"),
        Section("Figures", (), [(tmp_path / "a.png", f'"{EVIL}')]),
    )
    return html.document(f"run {EVIL}", {EVIL: EVIL}, sections)


def test_names_are_text_whatever_they_say(tmp_path):
    text = make(tmp_path)
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert "script" not in reader.tags
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    assert reader.text.count(EVIL) >= 7
    assert dict(reader.attributes)["alt"] == f'"{EVIL}'


def test_page_is_self_contained_and_fits_a_phone(tmp_path):
    text = make(tmp_path)
    outside = [
        value
        for value in re.findall(r'(?:src|href)="([^"]*)"', text)
        if value[0] != "#"
    ]
    assert len(outside) == 1
    assert outside[0].startswith("data:image/png;base64,")
    assert not re.search(r"https?:|@import|url\(", text)
    assert 'name="viewport" content="width=device-width' in text
    assert text.count('<div class="box"') == 2
    assert "prefers-color-scheme: dark" in text
    assert "min-width:720px;max-width:3000px" in text


def test_table_has_its_groups_and_whole_cells(tmp_path):
    text = make(tmp_path)
    assert text.count("<tr") == 4
    assert 'colspan="2"' in text
    assert "<th>stage</th>" in text
    assert "<td>2.0</td>" in text
    assert ("a long cell " * 9).strip() in text
    assert ">empty<" not in text
