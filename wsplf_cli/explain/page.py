"""The HTML of ``wsplf explain``: one section per polygon, one file, nothing loaded from elsewhere, no script."""

from collections.abc import Sequence

from wsplf_cli.backends import Project
from wsplf_cli.explain.facts import Explanation
from wsplf_cli.explain.pictures import INSTANCE_PX, INSTANCE_UM
from wsplf_cli.explain.subject import Subject
from wsplf_cli.pages.template import heading, load_template


def render_page(project: Project, title: str, explanations: Sequence[Explanation], others: Sequence[Subject]) -> str:
    """The page as HTML.

    Args:
        project: The project.
        title: What is explained: an image, or a polygon.
        explanations: The polygons in the order of the page.
        others: Polygons of the image that are only listed.
    """
    return load_template("explain.html").render(
        **heading(project),
        title=title,
        explanations=explanations,
        others=others,
        instance_px=INSTANCE_PX,
        instance_um=INSTANCE_UM,
    )
