"""What a stopped ``wsplf pseudolabel`` had finished of a slide: how it is kept, and all that it depends on.

Each step has a key, a digest of its whole input: of the slide's file and tissue, of what a person decided, of the
networks and options. So a step is taken over only where it would give the same again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cache import digest_of
from wsplf_cli.cohort.seeds import annotation_id
from wsplf_cli.cohort.slide import CohortSlide, SlideResult
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.networks.state import weights_digest
from wsplf_cli.runs.resume import Finished, finished_polygons, polygons_of
from wsplf_cli.slides.entry import SlideContent, content_of
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.self_training import Instances


@dataclass(frozen=True, slots=True)
class SlideInput:
    """What the steps of a slide depend on, of the slide itself; masks and regions by their digests."""

    entry_id: str
    content: SlideContent
    size_px0: tuple[int, int]
    mpp: float
    tissue: str
    regions: Mapping[str, str]
    positive: Mapping[str, bool]
    reviewed: bool

    @classmethod
    def of(cls, slide: CohortSlide, classes: Sequence[str]) -> "SlideInput":
        """The input of a slide, for these classes.

        Raises:
            SlideError: The slide cannot be read.
        """
        tissue = slide.tissue
        ink = () if tissue.ink is None else (tissue.ink,)
        return cls(
            slide.entry.id,
            content_of(slide.open()),
            slide.entry.size_px0,
            slide.mpp,
            digest_of(tissue.mask, str(tissue.downsample), *ink),
            {path_class: slide.regions(path_class).digest for path_class in classes},
            {path_class: slide.is_positive(path_class) for path_class in classes},
            slide.entry.reviewed,
        )


def probe_digest(probe: LinearProbe | None) -> str:
    """A digest of a linear probe; empty for none."""
    return "" if probe is None else digest_of(probe.weight, repr(float(probe.bias)))


def backbone_digest(backbone: DenseBackbone) -> str:
    """A digest of a backbone: its weights, its normalisation and its device."""
    statistics = [tensor.cpu().numpy() for part in backbone.parts for tensor in (part.mean, part.std)]
    return digest_of(weights_digest(backbone), *statistics, backbone.device.type)


def map_digest(slide_map: SlideMap) -> str:
    """A digest of a map with its scale."""
    return digest_of(slide_map.values, repr(slide_map.downsample))


def finished_instances(sampled: Mapping[str, Instances]) -> Finished:
    """The instances of a slide for each class, as they are kept; all classes share the features."""
    instances = next(iter(sampled.values()))
    assert instances.centres_px0 is not None
    known = {f"known.{index}": of_class.known for index, of_class in enumerate(sampled.values())}
    return Finished(
        {"features": instances.features, "centres_px0": instances.centres_px0} | known, {"blocks": instances.blocks}
    )


def instances_of(finished: Finished, slide: CohortSlide, classes: Sequence[str]) -> dict[str, Instances]:
    """The kept instances of a slide for each class."""
    features, centres_px0 = finished.arrays["features"], finished.arrays["centres_px0"]
    blocks = tuple(finished.document["blocks"])
    return {
        path_class: Instances(
            features,
            slide.is_positive(path_class),
            finished.arrays[f"known.{index}"],
            centres_px0=centres_px0,
            blocks=blocks,
        )
        for index, path_class in enumerate(classes)
    }


def finished_maps(maps: Mapping[str, NDArray[np.floating]]) -> Finished:
    """Maps [..., rows, columns] as they are kept: only the cells that are not NaN in all layers."""
    arrays: dict[str, NDArray[Any]] = {}
    shapes = {}
    for name, values in maps.items():
        layers = values.reshape(-1, *values.shape[-2:])
        inside = ~np.isnan(layers).all(axis=0)
        arrays |= {f"{name}.inside": np.packbits(inside), f"{name}.values": layers[:, inside]}
        shapes[name] = values.shape
    return Finished(arrays, shapes)


def maps_of(finished: Finished) -> dict[str, NDArray[Any]]:
    """The kept maps, to the bit."""
    maps = {}
    for name, shape in finished.document.items():
        cells = shape[-2] * shape[-1]
        inside = np.unpackbits(finished.arrays[f"{name}.inside"], count=cells).astype(bool).reshape(shape[-2:])
        values = finished.arrays[f"{name}.values"]
        layers = np.full((len(values), *shape[-2:]), np.nan, values.dtype)
        layers[:, inside] = values
        maps[name] = layers.reshape(shape)
    return maps


def finished_result(result: SlideResult) -> Finished:
    """The pseudo-labels of a slide as they are kept, with the pictures of its CAMs."""
    polygons = finished_polygons(result.annotations, result.prompted, result.counts)
    pictures = {
        f"picture.{index}": np.frombuffer(picture, np.uint8) for index, picture in enumerate(result.pictures.values())
    }
    return Finished(pictures, {**polygons.document, "classes": list(result.pictures)})


def result_of(finished: Finished, entry_id: str, *, run_id: str) -> SlideResult:
    """The kept pseudo-labels of a slide as those of another run."""
    annotations, prompted, counts = polygons_of(
        finished, origin="pseudolabel", run_id=run_id, id_of=partial(annotation_id, run_id, entry_id)
    )
    pictures = {
        path_class: finished.arrays[f"picture.{index}"].tobytes()
        for index, path_class in enumerate(finished.document["classes"])
    }
    return SlideResult(entry_id, annotations, counts, prompted=prompted, pictures=pictures)
