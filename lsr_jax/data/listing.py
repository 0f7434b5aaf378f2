"""Find the image-label pairs of a data set: by pattern, by rule, or from a user's list."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import posixpath
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lsr_jax.data.archives import Files, Folder, Zips, expression, inside, options
from lsr_jax.data.image_io import BadExample, Pair
from lsr_jax.data.layouts import Layout, Part
from lsr_jax.errors import InputError
from lsr_jax.files import expanded

# Endings of files that are images.
IMAGES = "{png,jpg,jpeg,tif,tiff,bmp,ppm,pgm,webp}"


class Listing(NamedTuple):
    """The files of a part, sorted by the name of the image, and the errors.

    The label of a pair is None where it is missing; `problems` has the errors of images
    without label and of labels without image by their names.
    """

    pairs: tuple[Pair, ...]
    problems: dict[str, BadExample]


def open_files(layout: Layout, root: str | os.PathLike) -> Files:
    """Opens the folder or the archives of a data set as downloaded.

    Raises:
      InputError: `root` has neither.
    """
    root = expanded(root)
    required = [part for part in layout.parts.values() if part.required]
    for folder in layout.folders:
        files = Folder(root / folder)
        if any(files.match(p.images) for p in required or layout.parts.values()):
            return files
    archives = [root / name for name in layout.zips]
    if archives and all(path.is_file() for path in archives):
        return Zips(archives)
    part = next(iter(layout.parts.values()))
    expected = f"{part.images} and {part.labels or 'no labels'}"
    if layout.zips:
        expected += f", or {' and '.join(layout.zips)}"
    found = "none of them" if root.is_dir() else "no such folder"
    raise InputError(
        f"{root}: expected {layout.title} as downloaded ({expected}) or as "
        f"prepared, found {found}; put it there or give another folder, then run "
        f"python -m lsr_jax.data.check {layout.argument} --root {root} and, to store it at "
        f"training size, python -m lsr_jax.data.prepare {layout.argument} --root {root} "
        "--size WIDTHxHEIGHT --out DIR" + (f"; {layout.note}" if layout.note else "")
    )


def list_part(files: Files, part: Part) -> Listing:
    """Lists all pairs of a part."""
    images = files.match(part.images)
    labels = files.match(part.labels) if part.labels else {}
    pairs = [Pair(name, labels.get(stars)) for stars, name in images.items()]
    problems = {}
    # Users may not have the labels of a published data set.
    if part.labels and (labels or part.count is None):
        missing = [(p.image, "label", part.labels) for p in pairs if p.label is None]
        alone = labels.keys() - images.keys()
        missing += [(labels[stars], "image", part.images) for stars in alone]
        for name, partner, pattern in sorted(missing):
            problems[name] = BadExample(
                "missing pair",
                f"{files.where(name)}: has no {partner} in {pattern}; restore it or "
                "remove the file",
            )
    return Listing(tuple(sorted(pairs)), problems)


def is_labelled(layout: Layout, name: str, found: Listing) -> bool:
    """Whether a part has labels.

    A published data set may lie there without: a target is adapted to without them.

    Raises:
      InputError: a description gives a pattern of labels, and no file matches it.
    """
    labelled = any(pair.label for pair in found.pairs)
    pattern = layout.parts[name].labels
    if found.pairs and pattern and not labelled and found.problems:
        raise InputError(
            f"{layout.title}: splits.{name}.labels: no file matches {pattern!r} for "
            f"{len(found.pairs)} images; correct it, or leave it out for images without "
            "labels"
        )
    return labelled


def list_parts(files: Files, layout: Layout) -> dict[str, Listing]:
    """Lists all parts of a data set."""
    return {name: list_part(files, part) for name, part in layout.parts.items()}


def count_warning(layout: Layout, part: str, count: int) -> list[str]:
    """Returns a line if a part has another number of images than was published."""
    published = layout.parts[part].count
    if published in (None, count):
        return []
    moved = any(subset.part == part for subset in layout.subsets.values())
    return [
        f"{layout.name} {part}: expected {published} images, as are published, found "
        f"{count}" + ("; the parts that are held out differ too" if moved else "")
    ]


def warnings(files: Files, layout: Layout, part: str, found: Listing) -> list[str]:
    """Returns what is odd about a part, though it can be used; a line each."""
    lines = count_warning(layout, part, len(found.pairs))
    pattern, labels = layout.parts[part].images, layout.parts[part].labels
    if labels and not found.problems and not any(pair.label for pair in found.pairs):
        lines.append(f"{layout.name} {part}: no file fits {labels}; has no labels")
    stem = re.sub(r"\.[^.*/]*$", "", pattern)
    others = files.names(f"{stem}.{IMAGES}") if stem != pattern else []
    if not others:
        return lines
    parts = layout.parts.values()
    known = [expression(p) for q in parts for p in (q.images, q.labels) if p]
    # Copies of used images in another format are left out knowingly.
    stems = {os.path.splitext(pair.image)[0] for pair in found.pairs}
    unused = [
        name
        for name in others
        if os.path.splitext(name)[0] not in stems
        and not any(expression.fullmatch(name) for expression in known)
    ]
    if unused:
        lines.append(
            f"{layout.name} {part}: {len(unused)} image files do not fit {pattern} "
            f"and are not used, first: {files.where(unused[0])}"
        )
    return lines


def fingerprint(files: Files, pairs: Sequence[Pair]) -> str:
    """Returns number and sha256 of names, sizes and times of files; none is read."""
    lines = hashlib.sha256()
    for pair in pairs:
        versions = [files.version(name) for name in filter(None, pair)]
        lines.update(f"{pair} {versions}\n".encode())
    return f"{len(pairs)} images, {lines.hexdigest()[:16]}"


def is_list(split: str) -> bool:
    """Tells whether a split is the path of a list: names have no dot or slash."""
    return not re.fullmatch(r"\w+", split)


def split_names(text: str) -> list[str]:
    """Returns the names in ``a+b``; the path of a list may have a plus itself."""
    return [text] if pathlib.Path(text).is_file() else text.split("+")


def label_names(layout: Layout, image: str) -> tuple[str, ...]:
    """Returns the names that the patterns allow for the label of an image."""
    for part in layout.parts.values():
        fit = expression(part.images).fullmatch(image)
        if fit and part.labels:
            found = []
            for option in options(part.labels):
                stars = iter(fit.groups())
                found.append(re.sub(r"\*", lambda _, s=stars: next(s), option))
            return tuple(found)
    return ()


def read_list(
    path: str | os.PathLike,
    layout: Layout,
    root: pathlib.Path,
    labels: Mapping[str, Sequence[str]],
    exists: Callable[[str], bool],
) -> list[Pair]:
    """Reads a list of images, as the original implementations have them.

    A line is ``image label`` or an image alone, whose label follows from the patterns. A
    tab, or quotes around the names, are needed only where spaces in names leave a doubt.

    An image is looked up as a path below the data folder; without the folders in front
    (``/SegNet/CamVid/``), which must then be those of every line; as the end of the path
    of exactly one image, also without its ending, or as what the stars of the pattern
    stand for. A label is a path below the data folder, without the same folders, or the
    end of the name that the pattern gives. `labels` has, for all images of the data set,
    the names that their labels may have; `exists` tells whether there is a file.

    Raises:
      InputError: no such file, no line, or a name that is no file of the data set, or
        more than one; with the number of the line.
    """
    try:
        data = expanded(path).read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        lines = data.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a list of 'image label' lines ({error})"
        ) from error
    reader = _ListReader(layout, root, labels, exists)
    pairs = []
    for number, line in enumerate(map(str.strip, lines), 1):
        try:
            if line:
                pairs.append(reader.pair(line))
        except (InputError, ValueError) as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    if not pairs:
        raise InputError(f"{path}: has no 'image label' lines")
    return pairs


class _ListReader:
    def __init__(self, layout, root, labels, exists):
        self._layout, self._root = layout, root
        self._labels, self._exists = labels, exists
        self._front = None  # the folders in front of all names of images

    @functools.cached_property
    def _ends(self):
        """End of a name, with and without the ending of the file -> images."""
        found = defaultdict(set)
        for image in self._labels:
            ends = [*_tails(image), *_tails(posixpath.splitext(image)[0])]
            for part in self._layout.parts.values():
                if fit := expression(part.images).fullmatch(image):
                    ends += _tails("/".join(fit.groups()))
            for end in ends:
                found[end].add(image)
        return found

    def pair(self, line):
        names = self._split(line)
        if len(names) > 2:
            raise ValueError(
                f"expected 'image label', found {len(names)} words, {line!r}; put a tab "
                "between names that have spaces, or quote them"
            )
        image, front = self._find(names[0])
        if self._front not in (None, front):
            raise ValueError(
                f"{names[0]!r}: expected {self._front or 'no folder'!r} in front, as in the "
                f"lines before, found {front or 'no folder'!r}; correct the list"
            )
        self._front = front
        if len(names) == 2:
            return Pair(image, self._label(names[1], image, front))
        return Pair(image, next(iter(self._labels.get(image, ())), None))

    def _split(self, line):
        if "\t" in line:
            return [name.strip(' "') for name in line.split("\t") if name.strip()]
        if line[0] in "\"'":
            return shlex.split(line)
        words = line.split()
        if len(words) == 1 or (len(words) == 2 and self._is_image(words[0])):
            return words
        cuts = [match.span() for match in re.finditer(r"\s+", line)]
        pairs = [[line[:a], line[b:]] for a, b in cuts if self._is_image(line[:a])]
        if len(pairs) == 1:
            return pairs[0]
        return [line] if not pairs and self._is_image(line) else words

    def _is_image(self, text):
        try:
            _, front = self._find(text)
            return not re.search(r"\s", front)  # else it could be another name
        except (InputError, ValueError):
            return False

    def _find(self, name):
        """Returns an image, and the folders in front of its name that it does not have."""
        plain = self._below(name)
        if self._exists(plain):
            return plain, ""
        for tail in _tails(plain):
            front = plain[: len(plain) - len(tail)]
            # "1.png,pseudo/1.png" is no image behind other folders, but two names.
            if re.search(r"(?<!^\w)[,;:|]", front):
                break
            if front and self._exists(tail):
                return tail, front
            # Behind other folders, "0001.png" could be any image.
            found = self._ends[tail] if "/" in tail or not front else ()
            if len(found) > 1:
                some = " and ".join(sorted(found)[:2])
                raise ValueError(f"{name!r}: could be {some}; write more of its path")
            if found:
                return next(iter(found)), front
        raise ValueError(
            f"{name!r}: no such file below {self._root}, and no name of one image of "
            f"{self._layout.name}; correct the list"
        )

    def _label(self, name, image, front):
        plain = self._below(name)
        if self._exists(plain):
            return plain
        if front and plain.startswith(front) and self._exists(plain[len(front) :]):
            return plain[len(front) :]
        for label in self._labels.get(image, ()):
            path = pathlib.PurePosixPath(label)
            end = f"/{path.parent.name}/{path.name}" if front else f"/{plain}"
            # "x_gtFine_labelIds.png" of "x.png" names its ids. Those of an "x.png" in
            # another folder are unknown.
            says = path.stem != pathlib.PurePosixPath(image).stem
            same = f"/{plain}".endswith(end) and f"/{label}".endswith(end)
            if same and (says or not front):
                return label
        raise ValueError(
            f"{name!r}: no such label file in {self._root}; correct the list, or leave the "
            "labels out to take those of the data set (a prepared folder has no others)"
        )

    def _below(self, name):
        """Returns a path with slashes, relative to the root if it is below it."""
        plain = name.replace("\\", "/")
        root = os.path.abspath(self._root)
        if os.path.isabs(plain) and os.path.exists(plain):
            places = [(plain, root), (os.path.realpath(plain), os.path.realpath(root))]
            for path, folder in places:
                if os.path.commonpath([path, folder]) == folder:
                    return os.path.relpath(path, folder)
            raise ValueError(f"{name!r}: is outside of {root}; name files below it")
        return posixpath.normpath(inside(plain.lstrip("/")))


def _tails(path: str) -> list[str]:
    words = path.split("/")
    return ["/".join(words[start:]) for start in range(len(words))]


def part_of(layout: Layout, split: str) -> str:
    """Returns the part from which a named split is taken.

    Raises:
      InputError: there is no such split.
    """
    if split in layout.parts:
        return split
    if split in layout.subsets:
        return layout.subsets[split].part
    raise InputError(
        f"{layout.name}: expected a split of {', '.join(layout.splits)} or a list file "
        f"FILE.txt, found {split!r}; correct the split's name"
    )


def choose(
    layout: Layout, split: str, names: Sequence[str], where: object
) -> list[str]:
    """Returns those of the sorted `names` of a part that belong to it or to a `Subset`.

    Raises:
      InputError: there are no such names.
    """
    chosen = list(names)
    if subset := layout.subsets.get(split):
        held, total = subset.held, subset.total
        chosen = [
            name
            for i, name in enumerate(names)
            if ((i + 1) * held // total > i * held // total) == subset.held_out
        ]
    if not chosen:
        pattern = layout.parts[part_of(layout, split)].images
        raise InputError(
            f"{where}: expected images for split {split!r}, found none among the "
            f"{len(names)} of {pattern}; choose another split or add the files"
        )
    return chosen


def choose_splits(
    present: Sequence[str], wanted: Sequence[str] | None, name: str
) -> Sequence[str]:
    """The splits to work on: ``wanted``, or all.

    Raises:
      InputError: one of them does not exist.
    """
    for split in wanted or ():
        if split not in present:
            known = ", ".join(present)
            raise InputError(
                f"--splits: unknown split of {name} (found {split!r}, expected {known})"
            )
    return wanted or present
