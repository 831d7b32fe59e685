"""The addresses of images in a project: what a person types for them, what lies below what, how QuPath writes them."""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from wsplf_cli.qupath.images import uri_path

#: What Java leaves as it is in the path of an address.
_PLAIN = "/!$&'()*+,;=:@~_-."


def file_uri(path: str, *, like: str = "") -> str:
    """The address of an absolute path with forward slashes ("/a", "D:/a", "//server/share/a").

    It has the form of ``like`` where that is a file address ("file:///a", "file:////server/a"), else QuPath's usual
    one ("file:/a", "file://server/a"); all but plain ASCII is percent-encoded UTF-8.
    """
    slashes = re.match(r"file:(/+)", like, re.IGNORECASE)
    count = len(slashes[1]) if slashes else 0
    quoted = quote(os.fsencode(path), safe=_PLAIN)
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
    """What OLD=NEW may mean; empty when it cannot be understood.

    OLD is a path as any system writes it, or an address. A path with %20 in it is one as it stands, and is also taken
    for an address that lost its beginning. Where there are several "=", NEW is what exists.
    """
    places = [match.start() for match in re.finditer("=", typed)]
    splits = [(typed[:place].strip(), typed[place + 1 :].strip()) for place in places]
    splits = [(old, new) for old, new in splits if old and new]
    chosen = next((one for one in splits if _place(one[1]).exists()), splits[0] if splits else None)
    if chosen is None:
        return []
    old, new = chosen
    path = uri_path(old + "/" if re.fullmatch(r"[A-Za-z]:", old) else old)
    if path is None:
        return []
    spellings = dict.fromkeys([path] if old.lower().startswith("file:") else [path, unquote(path)])
    return [Move(parts_of(one), _place(new)) for one in spellings]


def moved(uri: str, moves: Sequence[Move]) -> Path | None:
    """Where the image at an address is by the move with the longest ``old`` that fits; None when none fits.

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


def existing(path: Path) -> Path | None:
    """The path, in the form of Unicode in which it exists; None when it does not."""
    forms = [path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))]
    return next((one for one in forms if one.exists()), None)


def _below(parts: Sequence[str], old: Sequence[str]) -> bool:
    start = parts[: len(old)]
    if old[0] == "/":
        return list(start) == list(old)
    return [name.casefold() for name in start] == [name.casefold() for name in old]


def _place(new: str) -> Path:
    """The path on this machine that was typed, as a path or as an address."""
    path = uri_path(new) if new.lower().startswith("file:") else None
    return Path(path or new).expanduser().absolute()
