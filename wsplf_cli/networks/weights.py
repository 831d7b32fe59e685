"""The weights files that wsplf knows: those that it ships, and SAM's published checkpoints. Nothing is downloaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli.errors import ConfigError

ASSETS = Path(__file__).parents[1] / "assets"

#: Lists the shipped files. It is made by ``sha256sum *.safetensors > SHA256SUMS`` in that folder.
SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Published:
    """A published file: its name, size in bytes and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


#: Checkpoints of Segment Anything as its authors publish them.
SAM = {
    "vit_b": Published(
        "sam_vit_b_01ec64.pth", 375042383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": Published(
        "sam_vit_l_0b3195.pth", 1249524607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": Published(
        "sam_vit_h_4b8939.pth", 2564550879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


def check_sam(name: str, *, checkpoint: Path | None) -> None:
    """Check, before any work, that a SAM and its checkpoint fit and that the file is complete.

    A file with a published name must have the published size. For any other file (a tuned SAM) only its existence is
    checked here; loading it checks the names and shapes of its weights.

    Raises:
        ConfigError: The SAM needs a checkpoint, or the file is missing, of another model, or of the wrong size.
    """
    if checkpoint is None:
        if name in SAM:
            raise ConfigError(
                f"--sam {name} needs its checkpoint",
                hint=f"--sam-checkpoint FILE, such as {SAM[name].name} from the Segment Anything page, or --sam tiny",
            )
        return
    if not checkpoint.is_file():
        raise ConfigError(f"no SAM checkpoint at {checkpoint}", hint="check the path given with --sam-checkpoint")
    for model, published in SAM.items():
        if checkpoint.name == published.name:
            if model != name:
                raise ConfigError(f"{checkpoint.name} is the checkpoint of {model}, not {name}", hint=f"--sam {model}")
            size = checkpoint.stat().st_size
            if size != published.bytes:
                raise ConfigError(
                    f"{checkpoint} has {size} bytes, but {published.name} has {published.bytes}",
                    hint="the file is incomplete or not that file: download it again",
                )


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shipped() -> dict[str, str]:
    """The weights files that ship with wsplf: name -> SHA-256."""
    sums = (ASSETS / SUMS).read_text(encoding="ascii")
    return {name: digest for digest, name in (line.split() for line in sums.splitlines())}


def damaged() -> list[str]:
    """One line for each shipped weights file that is missing or was changed; empty when all are there."""
    if not (ASSETS / SUMS).is_file():
        return [f"{SUMS} is missing"]
    problems = []
    for name, digest in shipped().items():
        if not (ASSETS / name).is_file():
            problems.append(f"{name} is missing")
        elif sha256(ASSETS / name) != digest:
            problems.append(f"{name} is not the file that was shipped")
    return problems
