"""The files below a folder, and what their names and first bytes say that they are.

Data sets and `spcnet predict` look for photos in the same way: endings count in any case and spelling, linked folders are
followed, thumbnails of file servers are left out, and what could be a photo and is not taken is counted,
so that nothing is passed over without a word.
"""

import importlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import features

from spcnet.errors import DataError

_SAME = ((".jpg", ".jpeg", ".jfif", ".jpe"), (".tif", ".tiff"))
"""Endings that mean the same kind of file."""


def _endings(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HEIF = _endings(".heic .heif .hif .heics .heifs .avci")
_RAW = _endings(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl"
    " .sr2 .srf .srw .x3f"
)
PICTURES = (
    _HEIF
    | _RAW
    | _endings(
        ".jpg .jpeg .jfif .jpe .png .apng .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .pfm .jp2 .j2k .jpf .jpx .jpm .j2c .jxr"
        " .wdp .hdp .avif .avifs .gif .mpo .jps .pns .jxl .tga .psd .xcf .exr .hdr .dds .ico .icns .pcx .sgi .svg .svgz .eps .qoi"
        " .flif .bpg .fits .dcm .ktx .insp"
    )
)
"""How the names of picture files end, in small letters, whether they can be read here or not."""
FILMS = _endings(
    ".mp4 .m4v .mov .qt .mkv .webm .avi .divx .mpg .mpeg .m2v .m1v .vob .ts .m2ts .mts .tp .wmv .asf .flv .f4v .3gp .3g2 .ogv"
    " .ogm .mxf .dv .rm .rmvb .y4m .mjpeg .mjpg .insv .lrv .h264 .hevc .h265 .264 .265 .ivf"
)
"""How the names of video files end, in small letters, whether they are looked for or not."""
_NO_PICTURES = _endings(
    ".txt .md .rst .json .jsonl .geojson .xml .yaml .yml .csv .tsv .log .npy .npz .pkl .mat .h5 .hdf5 .zip .tar .gz .tgz .7z"
    " .py .sh .ipynb .html .css .js .pdf .doc .docx .xls .xlsx .db .ini .toml .cfg .part .tmp .lock .md5 .sha256 .aae .xmp"
    " .thm .pt .pth .onnx .safetensors .srt .gpx .wav .mp3 .bin .lnk .url .torrent"
)
"""Endings of files that are not opened to see what they are; a .thm is a camera's thumbnail of a video."""

_PLUG_INS = {
    "heif": ("pillow_heif", "pillow-heif"),
    "jxl": ("pillow_jxl", "pillow-jxl-plugin"),
    "avif": ("pillow_avif", "pillow-avif-plugin"),  # as of 11.3 Pillow's own builds have it
}
"""Kind of picture that Pillow may read with a plug-in only → its module and its package."""
_NEEDS = {**dict.fromkeys(_HEIF, "heif"), ".jxl": "jxl", ".avif": "avif", ".avifs": "avif"}
"""Ending → kind of picture for which Pillow may need a plug-in."""

_SERVER_FOLDERS = frozenset(
    ("@eadir", "@sharebin", "@recycle", "#recycle", "#snapshot", "@recently-snapshot", "@tmp", "__macosx", "$recycle.bin",
     "lost+found", "system volume information")
)  # fmt: skip
_SERVER_FILES = ("SYNOFILE_THUMB", "SYNOPHOTO_THUMB", "SYNOVIDEO_")
_SERVER_BEGINNINGS = ("SYNO", "lost+found", "System Volume")


def spellings(ending: str) -> tuple[str, ...]:
    """Endings of file names that mean the same as this one, itself first, all in small letters.

    >>> spellings(".JPG")
    ('.jpg', '.jpeg', '.jfif', '.jpe')
    """
    ending = ending.lower()
    same = next((group for group in _SAME if ending in group), (ending,))
    return (ending, *(other for other in same if other != ending))


def ending_of(name: str) -> str:
    """How a file's name ends, in small letters; empty where it has no ending."""
    return os.path.splitext(name)[1].lower()


def is_of_a_server(name: str) -> bool:
    """Whether a file or folder is one that file servers and systems put beside photos: thumbnails, forks, bins."""
    lower = name.lower()
    return name.startswith("._") or lower in _SERVER_FOLDERS or name.startswith(_SERVER_FILES)


def files_below(
    root: Path,
    folder: str = "",
    *,
    deep: bool = True,
    skip: Callable[[str], bool] | None = None,
    hidden: list[str] | None = None,
    twins: list[str] | None = None,
    missing_ok: bool = True,
) -> Iterator[str]:
    """Paths below the root, with slashes, of the files in a folder and in its subfolders, in no order.

    Linked folders are followed, each place once however many links lead to it, and never upwards. Hidden files (a name that
    begins with a dot) and the folders of file servers are left out.

    Args:
        root: folder that the paths are relative to.
        folder: start, below the root.
        deep: list subfolders.
        skip: whether to leave out a folder, by its path.
        hidden: takes the paths of hidden files that end as pictures do.
        twins: takes the paths of folders that are not entered because their content is listed by another path.
        missing_ok: whether a folder that does not exist has no files, instead of being an error.

    Raises:
        DataError: a folder cannot be listed.
    """
    origin = os.path.realpath(root / folder)
    waiting, links, entered = [(folder, origin)], list[tuple[str, str]](), set[str]()
    while waiting or links:
        # Folders come before links to them, and links in one order, so that the same is followed everywhere.
        inside, real = waiting.pop() if waiting else links.pop(links.index(min(links)))
        if real in entered:
            if twins is not None:
                twins.append(inside)
            continue
        entered.add(real)
        begin = f"{inside}/" if inside else ""
        try:
            with os.scandir(root / inside) as entries:
                for entry in entries:
                    name = entry.name
                    # Few names need a second look.
                    if (name[0] in ".@#_$" or name.startswith(_SERVER_BEGINNINGS)) and (
                        name[0] == "." or is_of_a_server(name)
                    ):
                        if hidden is not None and ending_of(name) in PICTURES and not is_of_a_server(name):
                            hidden.append(begin + name)
                        continue
                    if not entry.is_dir():
                        yield begin + name
                    elif deep and not (skip and skip(entry.path)):
                        if not entry.is_symlink():
                            waiting.append((begin + name, f"{real.rstrip('/')}/{name}"))
                        elif not _leads_up(target := os.path.realpath(entry.path), real, origin):
                            links.append((begin + name, target))
        except OSError as error:
            if not (missing_ok and isinstance(error, FileNotFoundError | NotADirectoryError)):
                reason = error.strerror or error
                raise DataError(f"cannot list the folder {root / inside}: {reason}. Check its permissions") from None


def _leads_up(target: str, *places: str) -> bool:
    """Whether a folder is one of some places, or one in which one of them lies."""
    return any(f"{place}/".startswith(f"{target.rstrip('/')}/") for place in places)


def kind_by_content(path: Path) -> str:
    """What a file is by its first bytes: jpeg, png, gif, webp, bmp, tiff, pnm, jp2, avif, heif, jxl, video, or nothing known."""
    try:
        # Reading a pipe would wait for whoever writes into it.
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            first = file.read(32)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return ""
    for kind, begins in _SIGNATURES:
        if first.startswith(begins):
            return kind
    if first[:4] == b"RIFF" and first[8:12] in (b"WEBP", b"AVI "):
        return "webp" if first[8:12] == b"WEBP" else "video"
    if first[4:8] == b"ftyp":
        brands = {first[8:12], *(first[place : place + 4] for place in range(16, len(first) - 3, 4))}
        # A picture names what it holds among its brands: mif1 alone is for either.
        if brands & {b"avif", b"avis"}:
            return "avif"
        return "heif" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"} else "video"
    if first[:2] == b"BM" and int.from_bytes(first[2:6], "little") == size:
        return "bmp"
    if first[:1] == b"P" and first[1:2] in b"123456" and first[2:3].isspace() and first[3:4].isdigit():
        return "pnm"
    return ""


_SIGNATURES = (
    ("jpeg", b"\xff\xd8\xff"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("gif", (b"GIF87a", b"GIF89a")),
    ("tiff", (b"II*\0", b"MM\0*")),
    ("jp2", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ("jxl", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("video", (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"FLV\x01")),
)


@lru_cache(maxsize=8)
def plug_in_loaded(kind: str) -> bool:
    """Whether Pillow reads a kind of picture: by itself, or with a plug-in, which is loaded if it is installed.

    Args:
        kind: as `kind_by_content` has it.
    """
    if kind not in _PLUG_INS or (kind in features.modules and features.check(kind)):
        return True
    try:
        plug_in = importlib.import_module(_PLUG_INS[kind][0])
        with suppress(AttributeError):  # the others register themselves
            plug_in.register_heif_opener()
    except Exception:  # noqa: BLE001 - a library that does not fit the system may fail in any way
        return False
    return True


def package_for(kind: str) -> str | None:
    """The package with which Pillow reads a kind of picture that it cannot read here; None where it can."""
    return None if plug_in_loaded(kind) else _PLUG_INS[kind][1]


def kind_of_ending(ending: str) -> str:
    """The kind of picture, as `kind_by_content` has it, of an ending for which Pillow may need a plug-in; else nothing."""
    return _NEEDS.get(ending, "")


def is_no_picture(ending: str) -> bool:
    """Whether files of that ending are known to be neither pictures nor videos, so that none needs to be opened."""
    return ending in _NO_PICTURES


class LeftOut:
    """Files that are not used, counted by what they are."""

    def __init__(self, kinds: Iterable[str] | Mapping[str, int] = ()) -> None:
        """Begin with an ending, or words, for each file; or with how many files have each."""
        self.kinds = Counter(kinds)

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def add(self, kind: str) -> None:
        """Count one more file."""
        self.kinds[kind] += 1

    def text(self, *, convert: bool = False) -> str:
        """All of them in one line: `12 files: 7 .heic (install pillow-heif to read them), 3 .gif, 2 hidden`.

        Args:
            convert: they are wanted under another ending, so that installing a package does not suffice.
        """
        total = self.kinds.total()
        parts = [f"{n:,} {kind}{_remedy(kind, n, convert=convert)}" for kind, n in self.kinds.most_common()]
        return f"{total:,} file{'' if total == 1 else 's'}: {', '.join(parts)}"


def _remedy(kind: str, number: int, *, convert: bool) -> str:
    them = "it" if number == 1 else "them"
    if kind in _RAW:
        return f" (raw {'file' if number == 1 else 'files'} of a camera: convert {them} to JPEG or PNG)"
    package = package_for(kind_of_ending(kind))
    if convert:
        package = package or ("pillow-heif" if kind_of_ending(kind) == "heif" else None)
        return f" ({package} reads {them}: convert {them} to JPEG or PNG)" if package else ""
    return f" (install {package} to read {them})" if package else ""
