"""All that is known of one polygon: facts that ``--json`` prints, and the pictures of its page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import label_word
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.explain import confidence as words
from wsplf_cli.explain.decisions import describe_decisions
from wsplf_cli.explain.evidence import Evidence, EvidenceReader
from wsplf_cli.explain.pictures import (
    MapOfSlide,
    ViewContent,
    Views,
    draw_views,
    instance_picture,
    peak_of,
    read_cam,
    shown_probabilities,
    values_inside,
)
from wsplf_cli.explain.prediction import ModelView, probability_map, read_model
from wsplf_cli.explain.runs import FitOfRun, RunTraces, newest_fit, read_fit, read_traces
from wsplf_cli.explain.subject import Subject
from wsplf_cli.options import ProjectOptions
from wsplf_cli.review.memory import read_review
from wsplf_cli.review.roles import AREA, class_made_for
from wsplf_cli.schema import Entry, TissueMask, Tracker, titles
from wsplf_cli.slides.entry import choose_pixel_size, slide_of
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.weak.kept.alike import Alike


@dataclass(frozen=True, slots=True)
class AlikeInstance:
    """An alike instance on another slide, with its thumbnail (empty where the slide cannot be read)."""

    title: str
    alike: Alike
    thumbnail: str = ""
    same_patient: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """One polygon: ``facts`` as JSON values, its pictures, and the alike instances of positive and negative slides."""

    subject: Subject
    facts: Mapping[str, Any]
    views: Views | None = None
    instance: str = ""
    positive: tuple[AlikeInstance, ...] = ()
    negative: tuple[AlikeInstance, ...] = ()


@dataclass(slots=True)
class _Findings:
    """What is gathered of one polygon, step by step; ``missing`` says in sentences what there is not."""

    traces: RunTraces
    missing: list[str]
    mpp: float | None = None
    fit: FitOfRun = field(default_factory=FitOfRun)
    model: ModelView | None = None
    parts: list[words.Part] = field(default_factory=list)
    shown: MapOfSlide | None = None
    peak_value: float | None = None
    evidence: Evidence | None = None
    views: Views | None = None
    instance: str = ""


@dataclass(slots=True)
class Explainer:
    """Explains polygons of a project. Tissue masks and backbones are computed once."""

    project: Project
    entries: Sequence[Entry]
    options: ProjectOptions
    tracker: Tracker
    side_px: int
    _evidence: EvidenceReader = field(init=False)
    _titles: dict[str, str] = field(init=False)
    _tissue: dict[str, TissueMask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_id = {entry.id: entry for entry in self.entries}
        self._evidence = EvidenceReader(by_id)
        self._titles = dict(zip(by_id, titles(self.entries), strict=True))

    def explain(self, subject: Subject) -> Explanation:
        """Everything that can be said of a polygon. What there is not is named in the facts under "missing".

        Raises:
            ProjectError: What earlier runs remember of the review is damaged.
            SlideError: The annotations of the entry cannot be read.
        """
        traces = read_traces(self.project.folder, subject.entry.id, subject.annotation)
        findings = _Findings(traces, list(traces.missing), subject.entry.mpp or self.options.mpp_override)
        self._find_fit(subject, findings)
        try:
            self._look(subject, findings)
        except SlideError as error:
            findings.missing.append(f"The slide cannot be read, so there are no pictures: {error.message}.")
        if not findings.parts:
            findings.parts = self._parts(subject, findings)
        evidence = findings.evidence
        positive = () if evidence is None else self._alike(subject, evidence.positive)
        negative = () if evidence is None else self._alike(subject, evidence.negative)
        facts = self._facts(subject, findings, positive, negative)
        return Explanation(subject, facts, findings.views, findings.instance, positive, negative)

    def _find_fit(self, subject: Subject, findings: _Findings) -> None:
        """The fit that the polygon came from; for a prediction that of the newest run before the model's."""
        annotation, traces = subject.annotation, findings.traces
        path_class = class_made_for(annotation) or ""
        if annotation.origin == "prediction":
            findings.model = read_model(self.project.folder, annotation, traces.record)
            if findings.model.missing:
                findings.missing.append(findings.model.missing)
            findings.fit = newest_fit(self.project.folder, path_class, before=findings.model.run_id)
        elif traces.record:
            findings.fit = read_fit(self.project.folder, traces.id, traces.record, path_class)
        if findings.fit.fit is None and findings.fit.reason:
            findings.missing.append(findings.fit.reason)

    def _look(self, subject: Subject, findings: _Findings) -> None:
        """The slide: its maps, the marked point, the evidence there, and the pictures."""
        annotation, entry = subject.annotation, subject.entry
        slide = slide_of(entry)
        findings.mpp = choose_pixel_size(entry, slide, mpp_override=self.options.mpp_override).mpp
        tissue = self._tissue_of(entry, slide, findings.mpp)
        if findings.traces.cam is not None:
            try:
                findings.shown = read_cam(findings.traces.cam, slide)
            except ProjectError as error:
                findings.missing.append(f"{error.message}.")
        inside = None
        if findings.model is not None and findings.model.loaded is not None:
            loaded = findings.model.loaded
            probabilities = probability_map(loaded, entry, tissue, annotation, mpp=findings.mpp)
            findings.shown = shown_probabilities(probabilities, loaded.threshold)
            inside = values_inside(annotation.shape, probabilities)
        findings.parts = self._parts(subject, findings, inside)
        peak, findings.peak_value = peak_of(annotation.shape, findings.shown)
        if findings.fit.fit is not None:
            evidence = self._evidence.read(findings.fit, (entry, slide, tissue, findings.mpp), peak)
            if isinstance(evidence, str):
                findings.missing.append(evidence)
            else:
                findings.evidence, peak = evidence, evidence.centre_px0
        content = ViewContent(findings.shown, findings.traces.masks, peak)
        findings.views = draw_views(slide, annotation, content, mpp=findings.mpp, side=self.side_px)
        findings.instance = instance_picture(slide, peak, mpp=findings.mpp)

    def _parts(self, subject: Subject, findings: _Findings, inside: Any = None) -> list[words.Part]:
        if findings.model is None:
            return words.parts_of_pseudolabel(subject.annotation, findings.traces.recipe)
        details = findings.traces.record.get("details")
        threshold = details.get("threshold") if isinstance(details, dict) else None
        return words.parts_of_prediction(subject.annotation, inside, threshold)

    def _tissue_of(self, entry: Entry, slide: Slide, mpp: float) -> TissueMask:
        if entry.id not in self._tissue:
            self._tissue[entry.id] = tissue_mask(slide, mpp_slide=mpp)
        return self._tissue[entry.id]

    def _alike(self, subject: Subject, alike: Sequence[Alike]) -> tuple[AlikeInstance, ...]:
        """The alike instances with their thumbnails."""
        patient = subject.entry.metadata.get("patient", "")
        shown = []
        for instance in alike:
            entry = self._evidence.entries[instance.entry_id]
            try:
                slide = slide_of(entry)
                mpp = choose_pixel_size(entry, slide, mpp_override=self.options.mpp_override).mpp
                thumbnail = instance_picture(slide, instance.centre_px0, mpp=mpp)
            except SlideError as error:
                self.tracker.say(f"{entry.name}: no thumbnail, {error.message}")
                thumbnail = ""
            same = bool(patient) and entry.metadata.get("patient", "") == patient
            shown.append(AlikeInstance(self._titles[entry.id], instance, thumbnail, same))
        return tuple(shown)

    def _facts(
        self,
        subject: Subject,
        findings: _Findings,
        positive: Sequence[AlikeInstance],
        negative: Sequence[AlikeInstance],
    ) -> dict[str, Any]:
        annotation, entry, traces = subject.annotation, subject.entry, findings.traces
        path_class = class_made_for(annotation) or ""
        left, top, right, bottom = annotation.shape.bounds
        review = read_review(self.project, entry, [path_class], self.tracker)
        area = annotation.shape.area * findings.mpp**2 if findings.mpp else annotation.measurements.get(AREA)
        return {
            "id": annotation.id,
            "image": subject.title,
            "entry": entry.id,
            "slide_label": label_word(entry, self.options),
            "kind": subject.kind,
            "class": annotation.path_class,
            "class_as_written": path_class,
            "area_um2": area,
            "centre_px0": [round((left + right) / 2), round((top + bottom) / 2)],
            "size_px0": [round(right - left), round(bottom - top)],
            "confidence": subject.confidence,
            "measurements": annotation.measurements,
            "parts": [asdict(part) for part in findings.parts],
            "sum": "" if findings.model else words.sum_of_confidence(annotation, traces.recipe),
            "why": self._why(subject, findings),
            "decisions": describe_decisions(subject, review, traces.as_written, mpp=findings.mpp or 1.0),
            "sam": [
                {"score": mask.score, "soft_dice": mask.soft_dice, "used": mask.used, "points": len(mask.points_px0)}
                for mask in traces.masks
            ],
            "evidence": None if findings.evidence is None else _evidence_facts(findings.evidence),
            "alike_positive": [_alike_facts(instance) for instance in positive],
            "alike_negative": [_alike_facts(instance) for instance in negative],
            "run": traces.id,
            "run_record": {key: value for key, value in traces.record.items() if key not in ("entries", "details")},
            "model": None if findings.model is None else _model_facts(findings.model),
            "backbone_digest": "" if findings.fit.fit is None else findings.fit.fit.backbone_digest,
            "missing": findings.missing,
        }

    def _why(self, subject: Subject, findings: _Findings) -> list[str]:
        """Why the polygon was drawn, in sentences."""
        path_class, fit = class_made_for(subject.annotation) or "", findings.fit.fit
        sentences = []
        if findings.model is None:
            calibration, peak = (None, None) if fit is None else (fit.calibration, fit.peak)
            sentences += words.words_on_cam(calibration, peak, peak_cam=findings.peak_value)
        else:
            sentences.append(
                f"The segmentation model {findings.model.name} drew it: a pixel belongs to {path_class} where its"
                " probability reaches the threshold."
            )
        if findings.evidence is not None:
            sentences += [
                words.words_on_evidence(findings.evidence, path_class),
                words.words_on_alike(findings.evidence),
            ]
        if sam := words.words_on_sam(findings.traces.masks):
            sentences.append(sam)
        if fit is not None and subject.entry.id in fit.suspected:
            reason = fit.suspected[subject.entry.id]
            sentences.append(f"The run suspects the label of this slide ({reason}) and did not learn from it.")
        return sentences


def _evidence_facts(evidence: Evidence) -> dict[str, Any]:
    return {
        "run": evidence.run_id,
        "centre_px0": evidence.centre_px0,
        "logit": evidence.logit,
        "average": evidence.average,
        "parts_um": {f"{sigma:g}": part for sigma, part in evidence.parts.items()},
        "probe": evidence.probe,
        "searched": evidence.searched,
        "slides": evidence.slides,
    }


def _alike_facts(instance: AlikeInstance) -> dict[str, Any]:
    return {
        "image": instance.title,
        "entry": instance.alike.entry_id,
        "centre_px0": [round(value) for value in instance.alike.centre_px0],
        "similarity": instance.alike.similarity,
        "logit": instance.alike.logit,
        "same_patient": instance.same_patient,
    }


def _model_facts(model: ModelView) -> dict[str, Any]:
    training = {key: value for key, value in model.training.items() if key not in ("entries", "details")}
    return {"name": model.name, "run": model.run_id, "config": model.config, "training": training}
