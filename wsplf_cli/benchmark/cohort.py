"""The slides of a benchmark: those to learn from, and those that predictions are measured on, with their truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsplf_cli import plugins
from wsplf_cli.backends import Project
from wsplf_cli.benchmark.truth import HINT, TruthReader, truth_reader
from wsplf_cli.benchmark_options import BenchmarkOptions
from wsplf_cli.cohort.labels import classes_of, require_both, resolve_labels
from wsplf_cli.errors import ConfigError, SlideError
from wsplf_cli.options import EvaluateOptions
from wsplf_cli.schema import Entry


@dataclass(frozen=True, slots=True)
class Cohort:
    """``training``: the entries to learn from; ``testing``: those that predictions are measured on.

    ``test_project`` is the project of the testing entries where it is another one. Else they are held-out entries
    (``held_out``) or, where the project has none, the training ones.
    """

    training: list[Entry]
    testing: list[Entry]
    held_out: bool
    test_project: Project | None = None

    @property
    def learns_from_testing(self) -> bool:
        """Whether predictions are measured on the slides that the model learned from."""
        return not self.held_out and self.test_project is None

    @property
    def all_entries(self) -> list[Entry]:
        """All entries, each once."""
        return [*self.training, *([] if self.learns_from_testing else self.testing)]

    @property
    def patients_in_both(self) -> int:
        """How many held-out entries are of patients with entries to learn from."""
        patients = {entry.patient for entry in self.training} - {""}
        return sum(entry.patient in patients for entry in self.testing) if self.held_out else 0


def cohort_of(entries: Sequence[Entry], options: BenchmarkOptions) -> Cohort:
    """The labelled entries to learn from, and those to measure predictions on: of ``--test-project``, or held out.

    Raises:
        ProjectError: there is no positive or no negative entry to learn from, or the other project cannot be read.
        ConfigError: the other project has an unknown label, or a review has no other slides to be measured on.
    """
    require_both([entry for entry in entries if not entry.held_out])
    training = [entry for entry in entries if entry.label is not None and not entry.held_out]
    held_out = [entry for entry in entries if entry.held_out]
    if options.test_project is not None:
        of_test = for_test_project(options).project
        project: Project = plugins.load("backends", of_test.backend).open_project(options.test_project, of_test)
        return Cohort(training, resolve_labels(project.entries(), of_test), held_out=False, test_project=project)
    if options.review and not held_out:
        raise ConfigError(
            "--review is measured on slides that nothing is learned from, and there are none",
            hint="--test-project OTHER.qpproj --test-truth TRUTH, or hold slides out (split: test)",
        )
    return Cohort(training, held_out or training, bool(held_out))


def require_truth(cohort: Cohort, options: BenchmarkOptions) -> None:
    """Refuse, before hours of work, a truth that covers no positive slide.

    Raises:
        ConfigError: it covers none, or there is no truth, or only one of ``--test-project`` and ``--test-truth``.
    """
    if (options.test_project is None) != (options.test_truth is None):
        raise ConfigError("--test-project and --test-truth go together", hint="give both, or none")
    if cohort.test_project is None:
        entries = list({entry.id: entry for entry in (*cohort.training, *cohort.testing)}.values())
        _require_truth_of_positive(cohort.training, entries, options)
    else:
        _require_truth_of_positive(cohort.training, cohort.training, options)
        _require_truth_of_positive(cohort.testing, cohort.testing, for_test_project(options))


def _require_truth_of_positive(measured: Sequence[Entry], entries: Sequence[Entry], options: BenchmarkOptions) -> None:
    read = truth_reader(evaluate_options(options, "pseudolabel"), classes_of(options.project)[0], entries)
    positive = [entry for entry in measured if entry.label is not None and entry.label.classes]
    if not any(_has_truth(read, entry) for entry in positive):
        raise ConfigError(f"{options.truth} has no truth of any positive slide", hint=HINT)


def _has_truth(read: TruthReader, entry: Entry) -> bool:
    try:
        return read(entry) is not None
    except SlideError:  # evaluate fails this entry and says why
        return True


def for_test_project(options: BenchmarkOptions) -> BenchmarkOptions:
    """The options as they are for ``--test-project``: ``--images`` chooses entries to learn from."""
    return replace(options, project=replace(options.project, images=None), truth=options.test_truth or options.truth)


def evaluate_options(options: BenchmarkOptions, origin: str) -> EvaluateOptions:
    """The options with which the annotations of an origin are measured."""
    return EvaluateOptions(
        project=options.project, truth=options.truth, origin=origin, tolerance_um=options.tolerance_um
    )
