"""The default stains that QuPath gives to each image type."""

import struct

from wsplf_cli.qupath.javaclasses import Maker
from wsplf_cli.qupath.javaser.graph import Block, Instance

_STAINS = "qupath.lib.color.ColorDeconvolutionStains"
_HEMATOXYLIN = "0.6511078257574492 0.7011930431234068 0.29049426072255424"
_EOSIN = "0.21589893562087106 0.8011960501132093 0.5580972485873467"
_DAB = "0.26916687204956063 0.5682411743268502 0.777593185920953"
#: Image type -> name of the stains, second stain, its vector; the first is hematoxylin.
_DEFAULTS = {
    "BRIGHTFIELD_H_E": ("H&E default", "Eosin", _EOSIN),
    "BRIGHTFIELD_H_DAB": ("H-DAB default", "DAB", _DAB),
    "BRIGHTFIELD_OTHER": ("H-DAB default", "DAB", _DAB),
}


def default_stains(maker: Maker, image_type: str) -> Instance | None:
    """The stains as QuPath 0.6 writes them; None for types without stains."""
    if image_type not in _DEFAULTS:
        return None
    name, second, vector = _DEFAULTS[image_type]
    text = (
        f'{{"Name" : "{name}", "Stain 1" : "Hematoxylin", "Values 1" : "{_HEMATOXYLIN}", '
        f'"Stain 2" : "{second}", "Values 2" : "{vector}", "Background" : " 255 255 255"}}'
    )
    return maker.external(_STAINS, [Block(struct.pack(">i", 1)), maker.text(text)])
