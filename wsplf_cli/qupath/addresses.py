"""The addresses of images in a project: how QuPath writes them, how a person types them, and how they move."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from wsplf_cli.qupath.images import uri_path

#: Characters that Java does not percent-encode in the path of an address.
_UNQUOTED = "/!$&'()*+,;=:@~_-."


def file_uri(path: str, *, like: str = "") -> str:
    """The address of an absolute path with forward slashes ("/a", "D:/a", "//server/share/a").

    It has the form of ``like`` where that is a file address ("file:///a", "file:////server/a"), else QuPath's usual
    one ("file:/a", "file://server/a"); all but plain ASCII is percent-encoded UTF-8.
    """
    slashes = re.match(r"file:(/+)", like, re.IGNORECASE)
    count = len(slashes[1]) if slashes else 0
    quoted = quote(os.fsencode(path), safe=_UNQUOTED)
    if path.startswith("//"):
        return f"file:{'//' if count > 3 else ''}{quoted}"
    return f"file:{'//' if count == 3 else ''}/{quoted.removeprefix('/')}"


@dataclass(frozen=True, slots=True)
class Move:
    """Images below ``old`` are now below ``new``. ``old`` is in parts, see ``parts_of``."""

    old: tuple[str, ...]
    new: Path


def parts_of(path: str) -> tuple[str, ...]:
    """The root ("/", "//" or "d:") and the names of a path with forward slashes, in one form of Unicode."""
    path = unicodedata.normalize("NFC", path)
    drive = re.match(r"([A-Za-z]:)(/|$)", path)
    root = drive[1].lower() if drive else "//" if path.startswith("//") else "/"
    names = path[2:] if drive else path
    return root, *(name for name in names.split("/") if name not in {"", "."})


def moves_of(typed: str) -> list[Move]:
    """The moves that OLD=NEW may mean; empty when it cannot be understood.

    OLD is a path as any system writes it, or an address. A path with %20 in it may be meant literally or be
    percent-encoded: both are tried. Where there are several "=", NEW is the part that exists.
    """
    signs = [match.start() for match in re.finditer("=", typed)]
    splits = [(typed[:sign].strip(), typed[sign + 1 :].strip()) for sign in signs]
    splits = [(old, new) for old, new in splits if old and new]
    if not splits:
        return []
    old, new = next((split for split in splits if _typed_path(split[1]).exists()), splits[0])
    path = uri_path(old + "/" if re.fullmatch(r"[A-Za-z]:", old) else old)
    if path is None:
        return []
    spellings = dict.fromkeys([path] if old.lower().startswith("file:") else [path, unquote(path)])
    return [Move(parts_of(spelling), _typed_path(new)) for spelling in spellings]


def moved(uri: str, moves: Sequence[Move]) -> Path | None:
    """Where the image at an address is now, by the move with the longest ``old`` that fits; None when none fits.

    Names on Windows drives and shares match in any case; a folder matches only whole.
    """
    path = uri_path(uri)
    if path is None:
        return None
    parts = parts_of(path)
    fitting = [move for move in moves if _below(parts, move.old)]
    if not fitting:
        return None
    best = max(fitting, key=lambda move: len(move.old))
    return best.new.joinpath(*parts[len(best.old) :])


def _below(parts: Sequence[str], old: Sequence[str]) -> bool:
    start = parts[: len(old)]
    if old[0] == "/":
        return list(start) == list(old)
    return [name.casefold() for name in start] == [name.casefold() for name in old]


def _typed_path(new: str) -> Path:
    """The path on this machine that was typed as a path or an address."""
    path = uri_path(new) if new.lower().startswith("file:") else None
    return Path(path or new).expanduser().absolute()
