"""What `spcnet data` does: list the sets, check one, look at it, copy it, make a small one, show the styles."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from spcnet.config import DataConfig, DomainSpec, RunConfig, from_dict, plain_lists, recipe_path
from spcnet.data.cache import CacheFormat, Form, write_cache
from spcnet.data.catalog import DATASETS, dataset, with_sets
from spcnet.data.datasets import open_domain, print_remarks
from spcnet.data.doctor import check
from spcnet.data.exclude import write_excluded
from spcnet.data.fixture import write_fixture
from spcnet.data.images import read_image
from spcnet.data.preview import contact_sheet
from spcnet.data.style_sheet import style_sheet
from spcnet.engine.progress import bar
from spcnet.errors import DataError, lookup
from spcnet.files import read_yaml, write_atomic, write_text
from spcnet.labels import label_space
from spcnet.synthesis.weather import WEATHER


def data_of(recipe: str | None, sets: Path | None = None) -> DataConfig:
    """The `data` part of a recipe, or the defaults, with the user's own sets of the recipe and of a file of sets.

    Raises:
        UsageError: there is no such recipe, or it or the file of sets is wrong.
        DataError: one of them cannot be read.
    """
    return with_sets(_data_of_recipe(recipe), sets)


def _data_of_recipe(recipe: str | None) -> DataConfig:
    if recipe is None:
        return DataConfig()
    return from_dict(RunConfig, read_yaml(recipe_path(recipe), "recipe")).data


def list_sets(console: Console) -> None:
    """Print every data set, what it shows and its parts."""
    table = Table(box=SIMPLE)
    table.add_column("name", no_wrap=True)
    table.add_column("what", ratio=1)
    table.add_column("splits", no_wrap=True)
    for name, info in DATASETS.items():
        table.add_row(name, f"{info.title}: {info.summary}", ", ".join(info.splits))
    console.print(table)
    console.print("Where to get each, and how its folders may look: docs/data.md", highlight=False, markup=False)


def check_set(
    name: str,
    root: Path,
    *,
    split: str | None = None,
    space: str | None = None,
    workers: int = 0,
    recipe: str | None = None,
    sets: Path | None = None,
    output: Path | None = None,
    console: Console,
) -> int:
    """Read a whole data set and say what is wrong with it.

    Args:
        name: the set.
        root: its folder.
        split: one of its splits; all by default.
        space: count the pixels of this label space's classes.
        workers: processes that read.
        recipe: where the user's own sets stand.
        sets: or a file with nothing but such sets; see `spcnet.config.read_sets`.
        output: folder for NAME_check.json and NAME_exclude.txt; the current one by default.
        console: where to print.

    Returns:
        0 where nothing is wrong, else 1.

    Raises:
        UsageError, DataError: see the message.
    """
    data = data_of(recipe, sets)
    _must_exist(name, root, data)
    with bar(console, 0, 0, f"check {name}") as progress:
        report = check(
            name,
            root,
            split=split,
            space=space,
            workers=workers,
            data=data,
            on_progress=lambda done, total: progress(done, {}, total),
        )
    report.render(console)
    folder = output or Path()
    written = [folder / f"{name}_check.json"]
    write_text(written[0], report.as_json())
    rows = report.excluded()
    if rows:
        written.append(folder / f"{name}_exclude.txt")
        write_excluded(written[1], rows)
        console.print(
            f"Leave the {len(rows):,} faulty images out of a run with --data.exclude [{written[1]}]",
            highlight=False,
            markup=False,
        )
    console.print(f"Written: {', '.join(map(str, written))}", highlight=False, markup=False)
    return report.exit_code


def preview(
    domain: str,
    root: Path | None,
    *,
    space: str = "cityscapes19",
    training: bool = False,
    num_images: int = 8,
    width: int = 320,
    seed: int = 0,
    recipe: str | None = None,
    sets: Path | None = None,
    output: Path = Path("preview.png"),
    console: Console,
) -> None:
    """Write a sheet of images of a domain with their labels.

    Args:
        domain: `SET[/SUBSET][@SPLIT][+STYLE]`.
        root: folder of the set; what the recipe or the environment says by default.
        space: label space of the colours.
        training: take the split that is trained on, where the domain names none.
        num_images: how many.
        width: of one image on the sheet, in pixels.
        seed: other seeds choose other images.
        recipe: where the user's own sets stand.
        sets: or a file with nothing but such sets; see `spcnet.config.read_sets`.
        output: file to write.
        console: where to print.

    Raises:
        UsageError, DataError: see the message.
    """
    spec, data = DomainSpec.parse(domain), data_of(recipe, sets)
    if root is not None:
        data = replace(data, roots={**data.roots, spec.dataset: str(root)})
    wanted = label_space(space)
    plain = open_domain(spec, data=data, space=wanted, training=training)
    print_remarks([plain], console)
    _save(contact_sheet(plain, wanted, num_images=num_images, width=width, seed=seed), output)
    console.print(
        f"{min(num_images, len(plain))} of {len(plain):,} images of {domain}: {output}", highlight=False, markup=False
    )


@plain_lists
def copy_set(
    name: str,
    root: Path,
    folder: Path,
    *,
    size: tuple[int, int] | None = None,
    splits: Sequence[str] | None = None,
    form: Form = "jpeg",
    quality: int = 95,
    workers: int = 0,
    recipe: str | None = None,
    sets: Path | None = None,
    console: Console,
) -> int:
    """Write a copy of a data set that is quick to read.

    Args:
        name: the set.
        root: its folder.
        folder: of the copy.
        size: height and width of its images; each image's own by default.
        splits: the parts to copy; all by default.
        form: "jpeg", or "raw" for unpacked pixels.
        quality: of the JPEG files, 1..100.
        workers: processes that read and write.
        recipe: where the user's own sets stand.
        sets: or a file with nothing but such sets; see `spcnet.config.read_sets`.
        console: where to print.

    Returns:
        0 where the copy is complete, else 1.

    Raises:
        UsageError, DataError: see the message.
    """
    data = data_of(recipe, sets)
    _must_exist(name, root, data)
    with bar(console, 0, 0, f"copy {name}") as progress:
        report = write_cache(
            name,
            root,
            folder,
            CacheFormat(size, form, quality),
            splits=splits,
            workers=workers,
            data=data,
            on_progress=lambda done, total: progress(done, {}, total),
        )
    console.print(
        f"{report.images:,} images in {folder}, {report.written:,} of them written now "
        f"({report.images_per_second:.1f} a second); {report.bytes_before / 2**20:,.0f} MiB became "
        f"{report.bytes_after / 2**20:,.0f} MiB. Use it with --data.roots.{name} {folder}",
        highlight=False,
        markup=False,
    )
    for remark in report.remarks:
        console.print(remark, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for image, reason in report.failed.items():
        console.print(f"left out {image}: {reason}", style="red", highlight=False, markup=False)
    return report.exit_code


def make_fixture(
    name: str, folder: Path, *, layout: str | None = None, images: int = 2, seed: int = 0, console: Console
) -> None:
    """Write a small valid data set of generated streets.

    Args:
        name: the set.
        folder: where to; new or empty.
        layout: name or number of one of its layouts.
        images: of each split.
        seed: other seeds give other streets.
        console: where to print.

    Raises:
        UsageError, DataError: see the message.
    """
    chosen = int(layout) if layout is not None and layout.isdigit() else layout
    written = write_fixture(name, folder, layout=chosen, images_per_split=images, seed=seed)
    names = ", ".join(one.name for one in dataset(name).layouts)
    console.print(f"{len(written)} files of {name} in {folder}. Its layouts: {names}", highlight=False, markup=False)


@plain_lists
def show_styles(
    image: Path | None,
    *,
    styles: Sequence[str] | None = None,
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    width: int = 320,
    seed: int = 0,
    output: Path = Path("styles.png"),
    console: Console,
) -> None:
    """Write a sheet of a photograph in every weather and road style at several strengths.

    Args:
        image: the photograph; a generated street by default.
        styles: which; all by default.
        strengths: 0..1.
        width: of one picture on the sheet, in pixels.
        seed: of drops, flakes, lamps.
        output: file to write.
        console: where to print.

    Raises:
        UsageError, DataError: see the message.
    """
    for style in styles or ():
        lookup(style, WEATHER, "weather style")
    if image is None:
        from spcnet.synthesis.streets import generate

        photo = np.asarray(generate(seed, style="overcast", seed=seed, size=(256, 512)).image)
    else:
        photo = read_image(image)
    _save(style_sheet(photo, styles=styles, strengths=strengths, seed=seed, width=width), output)
    table = Table(box=SIMPLE)
    for title in ("style", "family", "what it looks like"):
        table.add_column(title)
    for style in styles or WEATHER:
        table.add_row(style, WEATHER[style].family, WEATHER[style].description)
    console.print(table)
    console.print(f"The sheet is {output}", highlight=False, markup=False)


def _must_exist(name: str, root: Path, data: DataConfig) -> None:
    dataset(name, data)
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist: name the folder of the data set")


def _save(picture: Image.Image, output: Path) -> None:
    """Write a picture whole or not at all.

    Raises:
        DataError: it cannot be written, or not in that format.
    """
    kind = Image.registered_extensions().get(output.suffix.lower())
    if kind is None:
        raise DataError(f"cannot write a picture to {output}: end its name in .png, .jpg or .webp")
    write_atomic(output, lambda file: picture.save(file, kind))
