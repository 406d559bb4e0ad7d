"""What is said of labels that are missing."""

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from spcnet.config import DataConfig
from spcnet.data.catalog import DATASETS
from spcnet.data.doctor import check
from spcnet.errors import DataError
from tests.support.sets import mine, own_data, refusal, write

SMALL = (32, 64)


def polygons(root: Path, part: str = "", *, town: str = "201", name: str = "frame0001", end: str = ".png") -> Path:
    """A photo as Cityscapes and IDD have it, and its polygons; where its label should lie."""
    write(root / part / f"leftImg8bit/train/{town}/{name}_leftImg8bit{end}")
    made = root / part / f"gtFine/train/{town}/{name}_gtFine_polygons.json"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text("{}")
    return made.with_name(f"{name}_gtFine_")


def test_the_label_that_is_missing_is_that_of_the_photo_s_own_part(tmp_path: Path) -> None:
    for part, end in (("IDD_Segmentation", ".png"), ("idd20kII", ".jpg")):
        label = polygons(tmp_path, part, end=end)
        if part == "IDD_Segmentation":
            write(label.with_name(f"{label.name}labelcsTrainIds.png"))
    data = DataConfig(roots={"idd": str(tmp_path)})
    text = refusal(DataError, "idd", data)
    wanted = tmp_path / "idd20kII/gtFine/train/201/frame0001_gtFine_labelcsTrainIds.png"
    assert f"whose label should be {wanted}." in text
    assert f"Polygons are there (1, the first {tmp_path}/idd20kII/gtFine/" in text
    assert f"createLabels.py --datadir {tmp_path / 'idd20kII'} --id-type csTrainId --num-workers" in text
    report = check("idd", tmp_path)
    assert report.problems[0].detail == f"{wanted.relative_to(tmp_path).as_posix()} is missing"
    assert "createLabels.py" in report.notes[0]
    wanted.with_name("frame0001_gtFine_labellevel3Ids.png").write_bytes(b"")
    (tmp_path / "idd20kII/gtFine/train/201/frame0001_gtFine_polygons.json").unlink()
    assert "labellevel3Ids.png: use one kind of label images for all" in refusal(DataError, "idd", data)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("idd", "PYTHONPATH=helpers python preperation/createLabels.py --datadir {root} --id-type csTrainId"),
        ("cityscapes", "CITYSCAPES_DATASET={root} csCreateTrainIdLabelImgs"),
    ],
)
@pytest.mark.parametrize("outer", [False, True])
def test_polygons_alone_are_told_of_with_the_tool_that_makes_label_images(
    tmp_path: Path, name: str, tool: str, outer: bool
) -> None:
    part = (DATASETS[name].outer[-1] if name == "cityscapes" else "idd20kII") if outer else ""
    for frame in ("frame0001", "frame0002"):
        polygons(tmp_path, part, name=frame)
    text = refusal(DataError, name, DataConfig(roots={name: str(tmp_path)}))
    assert "has 2 images" in text
    assert "Polygons are there (2, the first" in text
    assert tool.format(root=tmp_path / part) in text


def test_the_tool_for_cityscapes_polygons_is_one_that_is_installed_with_its_package() -> None:
    tools = {point.name for point in entry_points(group="console_scripts")}
    if "csEvalPixelLevelSemanticLabeling" not in tools:
        pytest.skip("cityscapesScripts is not installed")
    (source,) = DATASETS["cityscapes"].sources
    assert source.tool.split()[-1] in tools
    (other,) = DATASETS["nighttime_driving"].sources
    assert find_spec(other.tool.split("python -m ")[1].split()[0])


def test_other_sources_of_label_images_are_told_of(tmp_path: Path) -> None:
    write(tmp_path / "wild/images/a.jpg")
    write(tmp_path / "wild/panoptic/a.png")
    text = refusal(DataError, "wilddash2", DataConfig(roots={"wilddash2": str(tmp_path / "wild")}))
    assert f"pano2sem.py --json_path {tmp_path}/wild/panoptic.json --outp_dir_sem {tmp_path}/wild/semantic" in text
    write(tmp_path / "bdd/images/10k/train/a.jpg")
    (tmp_path / "bdd/labels/sem_seg/polygons").mkdir(parents=True)
    (tmp_path / "bdd/labels/sem_seg/polygons/sem_seg_train.json").write_text("[]")
    text = refusal(DataError, "bdd100k", DataConfig(roots={"bdd100k": str(tmp_path / "bdd")}))
    assert "bdd100k.label.to_mask -m sem_seg" in text
    mine(tmp_path / "mine", "1")
    (tmp_path / "mine/masks/train/1_mask.png").rename(tmp_path / "mine/masks/train/1_mask.json")
    assert "1_mask.json" in refusal(DataError, "mytown", own_data(tmp_path / "mine"))
