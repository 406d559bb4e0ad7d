"""List, check, preview, copy and generate data sets; show the weather styles."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from spcnet.config import DataConfig, DomainSpec, RunConfig, from_dict, plain_lists, recipe_path
from spcnet.errors import DataError, lookup
from spcnet.files import read_yaml, write_atomic, write_text

CORES = os.cpu_count() or 1


def list_sets(*, console: Console | None = None) -> None:
    """List the data sets.

    Args:
        console: Where to print; nowhere by default.
    """
    from spcnet.data.catalog import DATASETS

    console = console or Console(quiet=True)
    columns = Column("name", no_wrap=True), Column("what", ratio=1), Column("splits", no_wrap=True)
    table = Table(*columns, box=SIMPLE)
    for name, info in DATASETS.items():
        table.add_row(name, f"{info.title}: {info.summary}", ", ".join(info.splits))
    console.print(table)
    console.print("Where to get each, and how its folders may look: docs/data.md", highlight=False, markup=False)


def check(
    name: str,
    root: Path,
    *,
    recipe: str | None = None,
    sets: Path | None = None,
    workers: int = CORES,
    split: str | None = None,
    space: str | None = None,
    output: Path = Path(),
    console: Console | None = None,
) -> int:
    """Read a whole data set and say what is wrong with it.

    Args:
        name: Data set, for example gtav; `spcnet data list` shows all.
        root: Folder of the set.
        recipe: Recipe in which your own sets are described.
        sets: YAML file that describes sets of your own, by name, as data.sets of a recipe does.
        workers: Processes that read images.
        split: One of its splits; all by default.
        space: Count the pixels of this label space's classes, too.
        output: Folder for NAME_check.json and NAME_exclude.txt.
        console: Where to print; nowhere by default.

    Returns:
        0 where nothing is wrong, else 1.

    Raises:
        UsageError, DataError: see the message.
    """
    from spcnet.data.doctor import check
    from spcnet.data.exclude import write_excluded
    from spcnet.engine.progress import bar

    console = console or Console(quiet=True)
    data = data_of(recipe, sets)
    _check_exists(name, root, data)
    with bar(console, 0, 0, f"check {name}") as progress:
        options: Any = {"workers": workers, "data": data, "on_progress": lambda done, total: progress(done, {}, total)}
        report = check(name, root, split=split, space=space, **options)
    report.render(console)
    written = [output / f"{name}_check.json"]
    write_text(written[0], report.as_json())
    if rows := report.excluded():
        written.append(output / f"{name}_exclude.txt")
        write_excluded(written[1], rows)
        advice = f"Leave the {len(rows):,} faulty images out of a run with --data.exclude [{written[1]}]"
        console.print(advice, highlight=False, markup=False)
    console.print(f"Written: {', '.join(map(str, written))}", highlight=False, markup=False)
    return report.exit_code


def preview(
    domain: str,
    root: Path | None = None,
    *,
    recipe: str | None = None,
    sets: Path | None = None,
    space: str = "cityscapes19",
    num_images: int = 8,
    width: int = 320,
    seed: int = 0,
    output: Path = Path("preview.png"),
    console: Console | None = None,
) -> None:
    """Write a sheet of images with their labels.

    Args:
        domain: SET[/SUBSET][@SPLIT][+STYLE], for example idd_lite@train.
        root: Folder of the set; what the recipe or the environment says by default.
        recipe: Recipe in which your own sets are described.
        sets: YAML file that describes sets of your own, by name, as data.sets of a recipe does.
        space: Label space of the colours.
        num_images: Number of images on the sheet.
        width: Width of an image on the sheet, in pixels.
        seed: Random seed; other seeds choose other images.
        output: Picture to write.
        console: Where to print; nowhere by default.

    Raises:
        UsageError, DataError: see the message.
    """
    from spcnet.data.datasets import open_domain, print_remarks
    from spcnet.data.preview import contact_sheet
    from spcnet.labels import label_space

    console = console or Console(quiet=True)
    spec, data = DomainSpec.parse(domain), data_of(recipe, sets)
    if root is not None:
        data = replace(data, roots={**data.roots, spec.dataset: str(root)})
    labels = label_space(space)
    images = open_domain(spec, data=data, space=labels, training=False)
    print_remarks([images], console)
    _save(contact_sheet(images, labels, num_images=num_images, width=width, seed=seed), output)
    number = min(num_images, len(images))
    console.print(f"{number} of {len(images):,} images of {domain}: {output}", highlight=False, markup=False)


@plain_lists
def styles(
    image: Path | None = None,
    *,
    styles: Sequence[str] | None = None,
    plugins: Sequence[str] | None = None,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    width: int = 320,
    seed: int = 0,
    output: Path = Path("styles.png"),
    console: Console | None = None,
) -> None:
    """Write a sheet of a photograph in every weather and road style, and as the plug-ins for images change it.

    Args:
        image: Photograph; a generated street by default.
        styles: Which styles, [fog,rain]; all by default, none where plug-ins are named.
        plugins: Which plug-ins for images, [pasta,fourier]; all by default, none where styles are named.
        strengths: At which strengths, each in 0..1.
        width: Width of a picture on the sheet, in pixels.
        seed: Random seed for noise, snow and rain.
        output: Picture to write.
        console: Where to print; nowhere by default.

    Raises:
        UsageError, DataError: see the message.
    """
    import numpy as np

    from spcnet.data.images import read_image
    from spcnet.data.style_sheet import style_sheet
    from spcnet.plugins import PLUGINS
    from spcnet.plugins.preview import HIDDEN, changes, shown
    from spcnet.synthesis.streets import generate
    from spcnet.synthesis.weather import WEATHER

    console = console or Console(quiet=True)
    chosen = (list(WEATHER) if plugins is None else []) if styles is None else list(styles)
    altering = (list(shown()) if styles is None else []) if plugins is None else list(plugins)
    for style in chosen:
        lookup(style, WEATHER, "weather style")
    rows = changes(altering, seed=seed)
    if image is None:
        photo = np.asarray(generate(seed, style="overcast", seed=seed, size=(256, 512)).image)
    else:
        photo = read_image(image)
    _save(style_sheet(photo, styles=chosen, strengths=strengths, seed=seed, width=width, more=rows), output)
    table = Table("style", "family", "what it looks like", box=SIMPLE)
    for style in chosen:
        table.add_row(style, WEATHER[style].family, WEATHER[style].description)
    for name in altering:
        table.add_row(name, "plug-in", PLUGINS[name].summary)
    console.print(table)
    hidden = [name for name in PLUGINS if name not in shown()] if altering and plugins is None else []
    if hidden:
        console.print(f"Left out: {', '.join(hidden)}. {HIDDEN}", highlight=False, markup=False)
    console.print(f"The sheet is {output}", highlight=False, markup=False)


@plain_lists
def cache(
    name: str,
    root: Path,
    folder: Path,
    *,
    recipe: str | None = None,
    sets: Path | None = None,
    size: tuple[int, int] | None = None,
    splits: Sequence[str] | None = None,
    form: Literal["jpeg", "raw"] = "jpeg",
    quality: int = 95,
    workers: int = CORES,
    console: Console | None = None,
) -> int:
    """Copy a data set once in a form that is quick to read.

    Args:
        name: Data set, for example gtav; `spcnet data list` shows all.
        root: Folder of the set; it stays as it is.
        folder: Folder of the copy.
        recipe: Recipe in which your own sets are described.
        sets: YAML file that describes sets of your own, by name, as data.sets of a recipe does.
        size: Height and width that images are resized to, [H,W]; each image's own by default.
        splits: Which splits, [train,val]; all by default.
        form: JPEG files, or raw for unpacked pixels: fastest, and ten times as large.
        quality: Quality of the JPEG files, 1..100.
        workers: Processes that read and write images.
        console: Where to print; nowhere by default.

    Returns:
        0 where the copy is complete, else 1.

    Raises:
        UsageError, DataError: see the message.
    """
    from spcnet.data.cache import CacheFormat, write_cache
    from spcnet.engine.progress import bar

    console = console or Console(quiet=True)
    data = data_of(recipe, sets)
    _check_exists(name, root, data)
    with bar(console, 0, 0, f"copy {name}") as progress:
        options: Any = {"workers": workers, "data": data, "on_progress": lambda done, total: progress(done, {}, total)}
        report = write_cache(name, root, folder, CacheFormat(size, form, quality), splits=splits, **options)
    what = f"{report.images:,} images in {folder}, {report.written:,} of them written now"
    sizes = f"{report.bytes_before / 2**20:,.0f} MiB became {report.bytes_after / 2**20:,.0f} MiB"
    text = f"{what} ({report.images_per_second:.1f} a second); {sizes}. Use it with --data.roots.{name} {folder}"
    console.print(text, highlight=False, markup=False)
    for remark in report.remarks:
        console.print(remark, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for image, reason in report.failed.items():
        console.print(f"left out {image}: {reason}", style="red", highlight=False, markup=False)
    return report.exit_code


def fixture(
    name: str,
    folder: Path,
    *,
    layout: str | None = None,
    images: int = 2,
    seed: int = 0,
    console: Console | None = None,
) -> None:
    """Make a small valid data set of generated streets.

    Args:
        name: Data set, for example gtav; `spcnet data list` shows all.
        folder: Folder to write to, new or empty.
        layout: Name or number of one of its layouts.
        images: Number of images of each split.
        seed: Random seed; other seeds give other streets.
        console: Where to print; nowhere by default.

    Raises:
        UsageError, DataError: see the message.
    """
    from spcnet.data.catalog import dataset
    from spcnet.data.fixture import write_fixture

    chosen = int(layout) if layout is not None and layout.isdigit() else layout
    written = write_fixture(name, folder, layout=chosen, images_per_split=images, seed=seed)
    names = ", ".join(one.name for one in dataset(name).layouts)
    message = f"{len(written)} files of {name} in {folder}. Its layouts: {names}"
    (console or Console(quiet=True)).print(message, highlight=False, markup=False)


def data_of(recipe: str | None, sets: Path | None = None) -> DataConfig:
    """The `data` part of a recipe, or the defaults, with the user's own sets of the recipe and of a file of sets.

    Raises:
        UsageError: there is no such recipe, or it or the file of sets is wrong.
        DataError: one of them cannot be read.
    """
    from spcnet.data.catalog import with_sets

    values = {} if recipe is None else read_yaml(recipe_path(recipe), "recipe")
    return with_sets(from_dict(RunConfig, values).data, sets)


def _check_exists(name: str, root: Path, data: DataConfig) -> None:
    from spcnet.data.catalog import dataset

    dataset(name, data)
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist: name the folder of the data set")


def _save(picture: Any, output: Path) -> None:
    """Write a picture of PIL completely or not at all."""
    from PIL import Image

    kind = Image.registered_extensions().get(output.suffix.lower())
    if kind is None:
        raise DataError(f"cannot write a picture to {output}: end its name in .png, .jpg or .webp")
    write_atomic(output, lambda file: picture.save(file, kind))
