"""The commands of the pipeline, from slide labels to predictions; each a few lines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsplf_cli import plugins
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.cli.command import (
    REOPEN,
    OptionalProject,
    ProjectPath,
    command,
    open_any,
    open_chosen,
    open_labelled,
    shown,
)
from wsplf_cli.networks.weights import check_sam
from wsplf_cli.options import (
    AgreeOptions,
    DemoOptions,
    DoctorOptions,
    EvaluateOptions,
    ExplainOptions,
    LabelsOptions,
    PlanOptions,
    PseudolabelOptions,
    ReportOptions,
    SegmentOptions,
    TrainOptions,
)

if TYPE_CHECKING:
    from wsplf_cli.ui import Screen


@command("doctor")
def doctor(project: OptionalProject = None, *, options: DoctorOptions, screen: "Screen") -> int:
    """Check this machine and a project.

    With PROJECT, every entry is checked too: its slide, micrometres per pixel, data file and label. Every problem is
    shown with what to do; many with the same cause are one line. Exits with 1 on a FAIL.
    """
    from wsplf_cli.cohort.checks import group_checks
    from wsplf_cli.commands.doctor import doctor as run_command

    checks = run_command(project, options, screen)
    screen.checks(checks if options.verbose or screen.json else group_checks(checks))
    return int(any(check.status == "FAIL" for check in checks))


@command("demo")
def demo(*, options: DemoOptions, screen: "Screen") -> int:
    """Run the whole pipeline on synthetic slides.

    Makes the slides and a QuPath project, runs every command on it, prints the scores and writes the report.
    """
    from wsplf_cli.commands.demo import demo as run_command

    screen.demo(run_command(options.out, seed=options.seed, device=options.device, tracker=screen))
    return 0


@command("labels")
def labels(project: ProjectPath, *, options: LabelsOptions, screen: "Screen") -> int:
    """Show or write the slide labels.

    A label comes from the entry's metadata, else from its tags; --csv writes labels into the metadata. Exits with 1
    when pseudolabel could not learn from them: none, only positive or only negative ones, or an unknown label.
    """
    from wsplf_cli.commands.labels import labels as run_command

    label_report = run_command(*open_chosen(project, options.project), options, screen)
    screen.labels(label_report.document)
    if label_report.written:
        screen.say(REOPEN)
    return int(bool(label_report.problems))


@command("pseudolabel")
def pseudolabel(project: ProjectPath, *, options: PseudolabelOptions, screen: "Screen") -> int:
    """Turn slide labels into polygons.

    Learns from the slide labels, and from polygons that people have reviewed. Writes pseudo-label annotations into the
    positive slides. Run again, it replaces only its own annotations that no one has touched. Typed options are stronger
    than wsplf.toml, and wsplf.toml is stronger than the recipe.
    """
    check_sam(options.sam, checkpoint=options.sam_checkpoint)
    from wsplf_cli.commands.pseudolabel import pseudolabel as run_command
    from wsplf_cli.networks.distributed import is_main, together
    from wsplf_cli.schema import Silent

    with together(options.run.device):
        tracker = screen if is_main() else Silent()
        report = run_command(*open_labelled(project, options.project), options, tracker)
    return shown(report, screen)


@command("train")
def train(project: ProjectPath, *, options: TrainOptions, screen: "Screen") -> int:
    """Train a segmentation model.

    Learns from the project's annotations (pseudo-labels, and what people drew or corrected) and from negative slides.
    Of an image with several planes, only the first z-slice and time point are used.
    """
    check_sam(options.sam, checkpoint=options.sam_checkpoint)
    from wsplf_cli.commands.train import train as run_command
    from wsplf_cli.networks.distributed import is_main, together
    from wsplf_cli.schema import Silent

    with together(options.run.device):
        tracker = screen if is_main() else Silent()
        report = run_command(*open_labelled(project, options.project), options, tracker)
    return shown(report, screen)


@command("segment")
def segment(project: ProjectPath, *, options: SegmentOptions, screen: "Screen") -> int:
    """Write a model's predictions.

    Applies a trained model to the entries, and writes its polygons as annotations.
    """
    from wsplf_cli.commands.segment import segment as run_command

    check_sam(options.sam, checkpoint=options.sam_checkpoint)
    return shown(run_command(*open_any(project, options.project, screen), options, screen), screen)


@command("plan")
def plan(project: ProjectPath, *, options: PlanOptions, screen: "Screen") -> int:
    """Tell what a command will take.

    Slides, tissue and tiles; time, peak memory and disk on this machine, from a short run on synthetic slides that is
    done once. The project is only read. The options are those of the command, also in wsplf.toml. Exits with 1 where a
    slide cannot be read.
    """
    from wsplf_cli.commands.plan import plan as run_command
    from wsplf_cli.plan.estimate import describe

    planned = run_command(*open_any(project, options.of_command.project, screen), options, screen)
    screen.plan(planned.document, describe(planned.document))
    return int(planned.failed > 0)


@command("evaluate")
def evaluate(project: ProjectPath, *, options: EvaluateOptions, screen: "Screen") -> int:
    """Measure annotations against the truth.

    Dice, IoU and boundary F1 per slide and over all slides; the share of the tissue of negative slides that is false
    positive. Of an image with several planes, only the first z-slice and time point are measured.
    """
    from wsplf_cli.commands.evaluate import evaluate as run_command

    scores = run_command(*open_any(project, options.project, screen), options, screen)
    screen.scores(scores)
    return int(bool(scores["failed"]))


@command("benchmark")
def benchmark(project: ProjectPath, *, options: BenchmarkOptions, screen: "Screen") -> int:
    """Compare recipes on the same slides.

    Works on a copy of the project, on one class. Jobs that are finished are not run again. Writes a table (Markdown,
    CSV, JSON) and plots.
    """
    check_sam(options.sam, checkpoint=options.sam_checkpoint)
    from wsplf_cli.commands.benchmark import benchmark as run_command

    document = run_command(*open_labelled(project, options.project), options, screen)
    screen.benchmark(document)
    return int(bool(document["failed"]))


@command("report")
def report(project: ProjectPath, *, options: ReportOptions, screen: "Screen") -> int:
    """Write one HTML page about a project.

    Self-contained: cohort, labels, thumbnails with CAM and outlines, scores, training curves, settings. With --review a
    page of the pending polygons instead, each with thumbnails and its coordinates, to sort and filter.
    """
    from wsplf_cli.commands.report import report as run_command

    written = run_command(*open_any(project, options.project, screen), options, screen)
    screen.path("report", written.page)
    return int(written.failed > 0)


@command("agree")
def agree(
    projects: Annotated[
        list[Path], typer.Argument(metavar="PROJECT PROJECT...", help="Copies of a project, one of each reader.")
    ],
    *,
    options: AgreeOptions,
    screen: "Screen",
) -> int:
    """Compare the reviews of several people.

    Dice and kappa per slide and pooled, who decided what on each polygon, and what they disagree on. --merge writes a
    new project in which the review goes on. The projects of the readers are only read.
    """
    from wsplf_cli.commands.agree import agree as run_command

    backend = plugins.load("backends", options.project.backend)
    document = run_command([backend.open_project(path, options.project) for path in projects], options, screen)
    screen.agreement(document)
    return int(bool(document["failed"]))


@command("explain")
def explain(
    project: ProjectPath,
    polygon: Annotated[
        str | None, typer.Argument(metavar="UUID", help="Id of a pseudo-label or prediction, as QuPath shows it.")
    ] = None,
    *,
    options: ExplainOptions,
    screen: "Screen",
) -> int:
    """Show why a polygon was drawn.

    Writes one HTML page: the tissue, the CAM, SAM's masks, what the confidence is made of, the most alike instances on
    other slides, the run, and what a person decided since. Give an id or --image. With --json, the facts are printed,
    and the page is written only with --out. The project is only read.
    """
    from wsplf_cli.commands.explain import explain as run_command

    write = not screen.json or options.out is not None
    document = run_command(*open_any(project, options.project, screen), polygon, options, screen, write=write)
    screen.explanation(document)
    return 0
