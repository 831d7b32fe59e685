"""``wsplf agree``: how far several readers agree who reviewed copies of a project, and what follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from wsplf_cli.agreement.document import agreement_document, unmatched_slides
from wsplf_cli.agreement.match import match_slides, readers_of
from wsplf_cli.agreement.merge import merge
from wsplf_cli.agreement.slides import SlideAgreement, compare_slide
from wsplf_cli.agreement.target import refuse_target
from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import AgreeOptions
from wsplf_cli.schema import Entry, Tracker


def agree(projects: Sequence[Project], options: AgreeOptions, tracker: Tracker) -> dict[str, Any]:
    """Compare the reviews of several people, and write what they agree on into a new project if that is asked for.

    The readers' projects are only read.

    Args:
        projects: The copies of the project, one of each reader.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        See ``agreement_document``; ``unmatched`` slides, which some reader lacks; ``failed``: name and reason; with
        ``options.merge``, ``merge``: the project, its run, and the number of polygons by outcome.

    Raises:
        ConfigError: fewer than two projects, or ``--images`` finds nothing.
        ProjectError: no slide is in two projects, none could be compared, or the new project cannot be written.
    """
    classes = classes_of(options.project)
    readers = readers_of(projects)
    if options.merge is not None:
        refuse_target(options.merge, readers)
    slides = match_slides(readers, options.project)
    unmatched = unmatched_slides(readers, slides)
    for line in unmatched:
        reason = f"; {line['reason']}" if line["reason"] else ""
        tracker.say(f"{line['slide']}: only in {', '.join(line['in'])}, not in {', '.join(line['missing'])}{reason}")
    if all(len(slide.readers) < 2 for slide in slides):
        raise ProjectError("no slide is in two of the projects", hint="give copies of one project")
    slide_of_entry = {id(slide.entry): slide for slide in slides}
    compared: list[SlideAgreement] = []

    def compare(entry: Entry) -> Mapping[str, float]:
        agreement = compare_slide(
            readers,
            slide_of_entry[id(entry)],
            classes,
            rule=options.rule,
            mpp_override=options.project.mpp_override,
        )
        compared.append(agreement)
        return {}

    results = for_each_entry([slide.entry for slide in slides], compare, tracker=tracker, name="compare")
    failed = [{"name": result.name, "reason": result.reason} for result in results if result.status == "failed"]
    if not compared:
        raise ProjectError(f"none of {len(slides)} slides could be compared; the first: {failed[0]['reason']}")
    several = [agreement for agreement in compared if len(agreement.slide.readers) > 1]
    document = agreement_document(readers, several, classes, rule=options.rule)
    document |= {"unmatched": unmatched, "failed": failed}
    if options.merge is not None:
        document["merge"] = merge(readers, compared, options, tracker)
    return document
