"""The rules by which names of QuPath classes are compared and split."""


def is_a(name: str | None, path_class: str) -> bool:
    """Whether ``name`` is the class ``path_class`` or one derived from it ("Tumor: Necrotic" is a "Tumor")."""
    return name is not None and (name == path_class or name.startswith(path_class + ":"))


def class_name(text: str | None) -> str | None:
    """A full class name as QuPath writes it ("Tumor: Positive"), or None for a blank one."""
    return ": ".join(class_parts(text)) or None


def class_parts(text: str | None) -> list[str]:
    """The components of a class name, the most general first ("Tumor: Positive" -> ["Tumor", "Positive"])."""
    return [part.strip() for part in (text or "").split(":") if part.strip()]
