"""Names of QuPath classes are compared here, by one rule, and nowhere else."""


def is_a(name: str | None, path_class: str) -> bool:
    """Whether a class is the other one or derived from it ("Tumor: Necrotic" is a "Tumor")."""
    return name is not None and (name == path_class or name.startswith(path_class + ":"))


def class_name(text: str | None) -> str | None:
    """A full class name as QuPath writes it ("Tumor: Positive"), or None for a blank one."""
    return ": ".join(part.strip() for part in (text or "").split(":") if part.strip()) or None
