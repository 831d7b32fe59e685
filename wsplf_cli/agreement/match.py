"""Which entries of several projects show the same slide: by address, file name, name and size, never by order."""

import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from wsplf_cli.backends import Project
from wsplf_cli.cohort.names import comparable_name, select_entries
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry, titles


@dataclass(frozen=True, slots=True)
class Reader:
    """One person's copy of the project; ``name`` is that of its folder, with more of the path where names clash."""

    name: str
    project: Project


@dataclass(frozen=True, slots=True)
class MatchedSlide:
    """One slide: for each reader the entry that shows it, or None; ``title`` names it for the user.

    ``reason`` says why a slide of one reader could not be matched; it is empty where nothing resembles it.
    """

    entries: tuple[Entry | None, ...]
    title: str = ""
    reason: str = ""

    @property
    def entry(self) -> Entry:
        """The entry of the first reader who has the slide."""
        return next(entry for entry in self.entries if entry is not None)

    @property
    def readers(self) -> list[int]:
        """The indices of the readers who have the slide."""
        return [index for index, entry in enumerate(self.entries) if entry is not None]


@dataclass(frozen=True, slots=True)
class _Content:
    """What tells a slide from others: where its image is, its names, and what the image looks like in QuPath."""

    entry: Entry
    address: str
    file_name: str
    name: str

    @property
    def image(self) -> Hashable:
        """Size and derivation; entries that differ in them never show the same image."""
        return self.entry.width_px0, self.entry.height_px0, self.entry.steps


#: The rules, the strictest first: a slide that was renamed still has its address, one that was relinked its names.
_RULES: tuple[Callable[[_Content], tuple[str, ...]], ...] = (
    lambda content: (content.address, content.name, content.entry.id),
    lambda content: (content.address, content.name),
    lambda content: (content.address,),
    lambda content: (content.file_name, content.name),
    lambda content: (content.file_name,),
    lambda content: (content.name,),
)


def readers_of(projects: Sequence[Project]) -> list[Reader]:
    """The readers with a name for each.

    Raises:
        ConfigError: there are fewer than two projects, or one is named twice.
    """
    if len(projects) < 2:
        raise ConfigError("agree compares two projects or more", hint="wsplf agree PROJECT PROJECT")
    paths = [project.path.resolve() for project in projects]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ConfigError(f"{twice} is named twice", hint="give the copy of each reader once")
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parent.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return [Reader(name, project) for name, project in zip(names, projects, strict=True)]
    return [Reader(str(path), project) for path, project in zip(paths, projects, strict=True)]


def match_slides(readers: Sequence[Reader], options: ProjectOptions) -> list[MatchedSlide]:
    """The slides of all readers in the order of the first project, then those that it lacks.

    Two entries match if they have the same size and derivation and if, by the first rule that decides, exactly one
    entry on each side has the same address and name, address, file name and name, file name, or name. ``--images``
    chooses the slides of which at least one entry has such a name.

    Raises:
        ConfigError: ``--images`` finds no entry.
        ProjectError: a project cannot be read.
    """
    groups: list[list[_Content | None]] = []
    reasons: dict[int, str] = {}
    for index, reader in enumerate(readers):
        remaining = _contents(reader.project)
        for rule in _RULES:
            remaining = _join(groups, remaining, index, rule)
        without_it = [group for group in groups if len(group) == index]
        known = {key for member in _members(without_it) for key in _all_keys(member)}
        for content in remaining:
            if known & _all_keys(content):
                reasons[len(groups)] = "several slides resemble it, and nothing tells which one it is"
            groups.append([None] * index + [content])
        groups = [[*group, *[None] * (index + 1 - len(group))] for group in groups]
    slides = [MatchedSlide(tuple(None if content is None else content.entry for content in group)) for group in groups]
    named = [
        replace(slide, title=title, reason=reasons.get(number, ""))
        for number, (slide, title) in enumerate(zip(slides, titles([slide.entry for slide in slides]), strict=True))
    ]
    return _chosen(named, options)


def _chosen(slides: Sequence[MatchedSlide], options: ProjectOptions) -> list[MatchedSlide]:
    """The slides that ``--images`` chooses by the name that any reader gives them."""
    entries = [entry for slide in slides for entry in slide.entries if entry is not None]
    chosen = {id(entry) for entry in select_entries(entries, options)}
    return [slide for slide in slides if any(id(entry) in chosen for entry in slide.entries)]


def _contents(project: Project) -> list[_Content]:
    """What tells the slides of a project apart, in project order."""
    contents = []
    for entry in project.entries():
        path = unicodedata.normalize("NFC", entry.recorded_path)
        contents.append(_Content(entry, path, comparable_name(path.rpartition("/")[2]), comparable_name(entry.name)))
    return contents


def _members(groups: Sequence[Sequence[_Content | None]]) -> list[_Content]:
    return [content for group in groups for content in group if content is not None]


def _keys(content: _Content, rule: Callable[[_Content], tuple[str, ...]]) -> set[tuple[Hashable, ...]]:
    """The key of an entry by a rule; none where a part of it is not known."""
    parts = rule(content)
    return {(content.image, *parts)} if all(parts) else set()


def _all_keys(content: _Content) -> set[tuple[Hashable, ...]]:
    return {(number, *key) for number, rule in enumerate(_RULES) for key in _keys(content, rule)}


def _join(
    groups: list[list[_Content | None]],
    contents: Sequence[_Content],
    reader: int,
    rule: Callable[[_Content], tuple[str, ...]],
) -> list[_Content]:
    """Put into the groups the entries of a reader that match exactly one of them; returns the others."""
    groups_by_key: dict[tuple[Hashable, ...], list[int]] = {}
    for number, group in enumerate(groups):
        if len(group) == reader:
            for key in {key for content in group if content is not None for key in _keys(content, rule)}:
                groups_by_key.setdefault(key, []).append(number)
    contents_by_key: dict[tuple[Hashable, ...], list[_Content]] = {}
    for content in contents:
        for key in _keys(content, rule):
            contents_by_key.setdefault(key, []).append(content)
    joined: set[int] = set()
    for key, same in contents_by_key.items():
        numbers = groups_by_key.get(key, [])
        if len(same) == len(numbers) == 1 and len(groups[numbers[0]]) == reader:
            groups[numbers[0]].append(same[0])
            joined.add(id(same[0]))
    return [content for content in contents if id(content) not in joined]
