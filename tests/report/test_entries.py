"""What the report says of one entry."""

from wsplf_cli.report.entries import thumbnail_px


def test_thumbnails_shrink_in_long_cohorts():
    assert thumbnail_px(1) == thumbnail_px(50) == 700
    assert thumbnail_px(200) == 350
    assert thumbnail_px(100_000) == 200
