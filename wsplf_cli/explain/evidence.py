"""The classifier at one point of a polygon, and the most alike instances on other slides.

The features of the point are computed again with the backbone and options of the run, if its weights are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.errors import WsplfError
from wsplf_cli.explain.runs import FitOfRun
from wsplf_cli.networks.backbone import DenseBackbone, build_dense
from wsplf_cli.networks.device import pick_device
from wsplf_cli.networks.state import weights_digest
from wsplf_cli.schema import Entry, TissueMask
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.window import DenseInference
from wsplf_cli.weak.cam import window_side
from wsplf_cli.weak.features import instance_at
from wsplf_cli.weak.kept.alike import Alike, most_alike
from wsplf_cli.weak.kept.fit import KeptFit
from wsplf_cli.weak.linear_probe import LinearProbe, mean_probe
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX

_OF_ALL = "by the mean of all probes, none of which learned from this slide"
#: Alike instances that are shown of positive and of negative slides.
ALIKE = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """The classifier at one instance of a polygon.

    ``centre_px0`` is the instance, ``logit`` what the probe says that did not learn from the slide. It is the sum of
    ``average``, the logit of the average tissue of the cohort, and of ``parts``: how much the neighbourhood of each
    size (standard deviation in micrometres) moves it. ``probe`` says which probe that is. ``searched`` counts the kept
    instances, ``slides`` the slides that they are from.
    """

    run_id: str
    centre_px0: tuple[float, float]
    logit: float
    average: float
    parts: Mapping[float, float]
    probe: str
    positive: tuple[Alike, ...]
    negative: tuple[Alike, ...]
    searched: int
    slides: int


@dataclass(slots=True)
class EvidenceReader:
    """Computes evidence for the polygons of a project; each backbone is loaded once."""

    entries: Mapping[str, Entry]
    _backbones: dict[str, DenseBackbone | str] = field(default_factory=dict)

    def read(
        self,
        fit_of_run: FitOfRun,
        slide: tuple[Entry, Slide, TissueMask, float],
        centre_px0: tuple[float, float],
    ) -> Evidence | str:
        """The evidence at a point, or a sentence that says why there is none.

        Args:
            fit_of_run: The fit of the run.
            slide: The entry, its open slide, its tissue and its micrometres per pixel at level 0.
            centre_px0: The point.

        Raises:
            SlideError: The slide's data is damaged.
        """
        if fit_of_run.fit is None:
            return fit_of_run.reason
        fit, options = fit_of_run.fit, fit_of_run.record.get("options") or {}
        recipe = options.get("recipe") or {}
        if fit.instances is None or not fit.probes:
            return (
                f"The classifier of run {fit_of_run.run_id} is a fine-tuned network, whose weights and features are not"
                " kept: no alike instances can be shown."
            )
        backbone = self._backbone(options, fit)
        if isinstance(backbone, str):
            return backbone
        entry, opened, tissue, mpp = slide
        inference = DenseInference(
            mpp=float(options.get("mpp", 1.0)),
            mpp_slide=mpp,
            window_px=window_side(int(recipe.get("tile_px", 192))),
            stride=backbone.stride,
            rotations=int(recipe.get("tta", 1)),
        )
        instance = instance_at(opened, tissue, backbone, inference, centre_px0)
        if instance is None:
            return "The polygon lies outside the tissue: the classifier says nothing there."
        features, centre = instance
        probe, probe_words = _probe_for(fit, entry.id)
        mean = fit.instances.basis.mean
        moved = probe.weight * (features.astype(np.float32) - mean)
        parts = moved.reshape(len(CONTEXT_SIGMAS_PX), -1).sum(axis=1)
        query = fit.instances.basis.reduce(features[None])[0]
        return Evidence(
            run_id=fit_of_run.run_id,
            centre_px0=centre,
            logit=float(probe(features[None])[0]),
            average=float(probe(mean[None])[0]),
            parts={sigma * inference.mpp: float(part) for sigma, part in zip(CONTEXT_SIGMAS_PX, parts, strict=True)},
            probe=probe_words,
            positive=self._alike(query, fit, entry, positive=True, mpp_run=inference.mpp),
            negative=self._alike(query, fit, entry, positive=False, mpp_run=inference.mpp),
            searched=len(fit.instances.features),
            slides=len(fit.instances.entry_ids),
        )

    def _alike(
        self,
        query: NDArray[np.float32],
        fit: KeptFit,
        entry: Entry,
        *,
        positive: bool,
        mpp_run: float,
    ) -> tuple[Alike, ...]:
        """The most alike instances on other slides of a label that the run learned from and that are still there."""
        assert fit.instances is not None
        ids = [
            entry_id
            for entry_id in (fit.positive if positive else fit.negative)
            if entry_id != entry.id and entry_id not in fit.suspected and entry_id in self.entries
        ]

        def apart_px0(entry_id: str) -> float:
            """Two neighbourhoods of the largest size: instances further apart see different tissue."""
            return 2 * max(CONTEXT_SIGMAS_PX) * mpp_run / (self.entries[entry_id].mpp or mpp_run)

        return tuple(most_alike(query, fit.instances, ids, count=ALIKE, apart_px0=apart_px0))

    def _backbone(self, options: Mapping[str, Any], fit: KeptFit) -> DenseBackbone | str:
        """The backbone of a run, or a sentence that says why it cannot be used."""
        if fit.backbone_digest not in self._backbones:
            name, weights = str(options.get("backbone", "small")), options.get("backbone_weights")
            try:
                backbone = build_dense(name, weights=Path(weights) if weights else None)
            except WsplfError as error:
                usable: DenseBackbone | str = f"The backbone {name} of the run cannot be loaded ({error.message})"
            else:
                usable = f"The weights of the backbone {name} are not those of the run any more"
                if weights_digest(backbone) == fit.backbone_digest:
                    usable = backbone.to(pick_device("auto")).eval()
            if isinstance(usable, str):
                usable += ": no alike instances can be shown."
            self._backbones[fit.backbone_digest] = usable
        return self._backbones[fit.backbone_digest]


def _probe_for(fit: KeptFit, entry_id: str) -> tuple[LinearProbe, str]:
    """The probe for a slide, out of fold where there are folds, and in words which one that is."""
    if entry_id in fit.probes:
        if fit.in_sample:
            return fit.probes[entry_id], f"of a probe that learned from this slide too: {fit.in_sample}"
        return fit.probes[entry_id], "of a probe that did not learn from this slide"
    return mean_probe(fit.probes.values()), _OF_ALL
