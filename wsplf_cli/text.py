"""The one form in which names are compared: of classes, entries, files, words of labels and patients."""

import unicodedata


def normalise_name(name: str) -> str:
    """A name without case, surrounding blanks and differences in Unicode form (NFC on Linux, NFD on macOS)."""
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded).strip()
