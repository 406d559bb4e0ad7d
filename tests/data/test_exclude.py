"""Lists of images to leave out."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spcnet.config import DataConfig, OwnSet
from spcnet.data.cache import CacheFormat, write_cache
from spcnet.data.doctor import check
from spcnet.data.exclude import write_excluded
from spcnet.data.fixture import write_fixture
from spcnet.data.folders import SetFolder
from spcnet.errors import DataError
from tests.support.sets import mine, opened, own_data, read_excluded, refusal, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


SMALL = (32, 64)


def test_listed_images_are_left_out_and_others_stay(tmp_path: Path) -> None:
    written = write_fixture("cityscapes", tmp_path / "city", images_per_split=3, size=SMALL)
    gone = written[2].relative_to(tmp_path / "city").as_posix()
    written[3].unlink()  # the label of what is left out may be missing
    list_file = tmp_path / "bad.txt"
    write_excluded(list_file, [("cityscapes", gone, "no\tlabel\n at all"), ("kitti", gone, "other set")])
    assert read_excluded([str(list_file)]) == {"cityscapes": frozenset({gone}), "kitti": frozenset({gone})}
    data = DataConfig(roots={"cityscapes": str(tmp_path / "city")}, exclude=[str(list_file)])
    domain = opened("cityscapes@train", data)
    assert [domain.read(i).name for i in range(len(domain))] == ["town_000001", "town_000003"]
    assert gone not in {pair.image.relative_to(tmp_path / "city").as_posix() for pair in domain.pairs}
    assert len(opened("cityscapes@val", data)) == 3


def test_the_page_s_example_of_a_list_is_one(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(re.findall(r"```\n(gtav.*?)```", DOCUMENT.read_text(), re.DOTALL)[0])
    assert read_excluded([str(tmp_path / "list")]) == {"gtav": frozenset({"images/train/12160.png"})}


def test_leaving_out_every_image_is_refused(tmp_path: Path) -> None:
    written = write_fixture("kitti", tmp_path / "set", size=SMALL)
    rows = [("kitti", path.relative_to(tmp_path / "set").as_posix(), "x") for path in written]
    write_excluded(tmp_path / "all", rows)
    data = DataConfig(roots={"kitti": str(tmp_path / "set")}, exclude=[str(tmp_path / "all")])
    assert "data.exclude leaves out every image" in refusal(DataError, "kitti", data)


@pytest.mark.parametrize(
    "content",
    [
        "city\t{path}\twhy\n",
        "\ufeffcity\t{path}\twhy\n",
        "\ufeff# a list\r\ncity\t{path}\twhy\r\n",
        "# a list\rcity\t{path}\twhy\r",
        "city\t./{path}\twhy",
        "city\t{back}\twhy",
        "city\t.\\{back}\twhy",
        "city\t{path}  \twhy  \n  \n",
        "  # a list\n city \t {path}\n",
        "city\t{path}\t",
        "city\t{root}/{path}\twhy",
        "city\t{link}/{path}\twhy",
        "city\t{upper}\twhy",
        "city\t{jpeg}\twhy",
        "city\t{path}\twhy\ncity\t{path}\tagain",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_counts_however_it_was_saved(tmp_path: Path, content: str, encoding: str) -> None:
    for name in ("ä 1", "2"):
        write(tmp_path / f"root/photos/{name}.png")
        write(tmp_path / f"root/masks/{name}.png")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    path = "photos/ä 1.png"
    text = content.format(
        path=path,
        back=path.replace("/", "\\"),
        root=tmp_path / "root",
        link=tmp_path / "link",
        upper=path.replace(".png", ".PNG"),
        jpeg=path.replace(".png", ".jpg"),
    )
    (tmp_path / "list").write_bytes(text.encode(encoding))
    own = OwnSet("photos/*.png", "masks/*.png", {0: "road"}, ["all"])
    data = DataConfig(roots={"city": str(tmp_path / "root")}, sets={"city": own}, exclude=[str(tmp_path / "list")])
    domain = opened("city", data)
    assert [domain.read(i).name for i in range(len(domain))] == ["2"]
    assert domain.remarks == ()


def test_lines_that_name_no_image_and_sets_that_nobody_knows_are_told_of(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for split in ("train", "val"):
        for name in ("1", "2"):
            mine(root, name, split=split)
    lines = [
        "# a list",
        "mytown\tphotos/train/1.jpg\tused",
        "mytown\tphotos/val/1.jpg\tan image of the other split",
        "mytown\tphotos/val/2.JPEG\tone in another spelling",
        "mytown\tphotos/train/9.jpg\tnot there",
        "mytown\tmasks/train/2_mask.png\ta label",
        "mytown\t/elsewhere/photos/train/2.jpg\tnot below the root",
        "mytown\tphotos/train/8.jpg\tnot there",
        "kitti\ttraining/image_2/1.png\ta set that is not used",
        "mytwon\tphotos/train/2.jpg\twrong name",
        "streets\tx.png\tgenerated",
    ]
    (tmp_path / "list").write_text("\n".join(lines))
    data = own_data(root, exclude=[str(tmp_path / "list")])
    assert opened("mytown@train", data).remarks == (
        f"{tmp_path}/list lists 4 images that the data set mytown in {root} does not have, and nothing is left out for them: "
        "line 5 (photos/train/9.jpg), line 6 (masks/train/2_mask.png), line 7 (/elsewhere/photos/train/2.jpg) and 1 more",
        f"{tmp_path}/list lists images of 'mytwon', which is not a data set with files: line 10. Did you mean 'mytown'?",
        f"{tmp_path}/list lists images of 'streets', which is not a data set with files: line 11",
    )
    assert len(opened("mytown@train", data)) == 1
    report = check("mytown", root, data=data)
    assert len(report.notes) == 3
    assert (report.left_out, report.images) == (3, 1)


def test_a_list_about_a_set_counts_for_its_copy_too(tmp_path: Path) -> None:
    write_fixture("kitti", tmp_path / "set", images_per_split=3, size=SMALL)
    gone = SetFolder("kitti", tmp_path / "set").find_split("train")[0][1].image.relative_to(tmp_path / "set").as_posix()
    write_excluded(tmp_path / "list", [("kitti", gone, "bad")])
    assert gone.endswith(".png")
    for form in ("jpeg", "raw"):
        write_cache("kitti", tmp_path / "set", tmp_path / form, CacheFormat(form=form))
        data = DataConfig(roots={"kitti": str(tmp_path / form)}, exclude=[str(tmp_path / "list")])
        assert (len(opened("kitti", data)), opened("kitti", data).remarks) == (2, ())


@pytest.mark.parametrize(
    "line", ["kitti", "kitti a.png why", "\ta.png\twhy", "kitti\ta/../b.png\twhy", "kitti\ta\\..\\b.png\twhy",
             "kitti\t\twhy", "kitti\t", "kitti\ta.png\twhy\tand", "kitti\ta\x00b.png\twhy"]
)  # fmt: skip
def test_a_malformed_list_is_answered_with_the_line_s_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"# a list\n\nkitti\tfine.png\twhy\n{line}\n")
    with pytest.raises(DataError, match=r"list, line 4: cannot read") as caught:
        read_excluded([str(tmp_path / "list")])
    assert "\n" not in str(caught.value)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "gone", tmp_path / "binary", tmp_path):
        with pytest.raises(DataError, match=r"which data\.exclude names"):
            read_excluded([str(file)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["kitti", "gtav"]),
            st.lists(
                st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1), min_size=1
            )
            .map("/".join)
            .filter(lambda path: ".." not in path),
            st.text(),
        ),
        max_size=5,
    )
)
def test_a_list_is_read_as_it_was_written(rows: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_excluded(Path(folder) / "list", rows)
        found = read_excluded([str(Path(folder) / "list")])
    assert found == {name: frozenset(path for n, path, _ in rows if n == name) for name in {n for n, _, _ in rows}}
