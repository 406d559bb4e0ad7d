"""A network handed on: what lies in the folder, what the card tells, and the way to the Hub and back without a network."""

import dataclasses
import json
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import spcnet
from spcnet import checkpoint
from spcnet.checkpoint import MODEL_FILE
from spcnet.cli import main
from spcnet.config import DataConfig, ModelConfig, RunConfig, TrainingConfig, as_dict
from spcnet.errors import CheckpointError, DataError, UsageError
from spcnet.evaluation import evaluator
from spcnet.export import hub
from spcnet.export.hub import model_card
from spcnet.labels import label_space
from spcnet.methods import build_model
from spcnet.reports.runs import load_run
from tests.support.weight_files import restore

SPACE = label_space("idd7")
DOMAINS = {"camvid": "source", "idd_lite@train": "source", "cityscapes": "unseen", "cityscapes+night": "unseen"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is out of bounds for tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, as training leaves it, with known scores."""
    folder = tmp_path_factory.mktemp("runs") / "spcnet-0"
    folder.mkdir()
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights="/srv/someone/secret/imagenet.pth")
    config = RunConfig(
        method="spcnet",
        model=model,
        data=DataConfig(
            sources=["camvid", "idd_lite@train"],
            targets=["cityscapes", "cityscapes+night"],
            space="idd7",
            roots={"camvid": "/srv/someone/secret/camvid"},
        ),
        training=TrainingConfig(iterations=40, seed=3),
        output=folder,
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    (folder / "environment.json").write_text(json.dumps({"spcnet": "0.1.0", "torch": "2.9.0", "command": "secret"}))
    torch.manual_seed(0)
    network = build_model("spcnet", backbone="shufflenet_v2", num_classes=7, output_stride=32)
    card = checkpoint.ModelCard(
        "spcnet", as_dict(model), SPACE.name, SPACE.classes, ("camvid", "idd_lite@train"), (128, 256)
    )
    checkpoint.write(folder / MODEL_FILE, network.state_dict(), card, {"iteration": 40, "path": "/srv/someone/secret"})
    results = {}
    for number, name in enumerate(DOMAINS):
        counts = torch.full((7, 7), 1 + 5 * number) + torch.eye(7, dtype=torch.int64) * 100
        if name == "cityscapes":
            counts[2] = 0  # no pixel of `living`
        results[name] = evaluator.DomainResult(counts=counts, images=10 + number, seconds=1.0)
    record = evaluator.record(
        results,
        DOMAINS,  # type: ignore[arg-type]
        space=SPACE,
        origin=evaluator.Origin("spcnet-0", "spcnet", 3, 40),
    )
    (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
    return folder


@pytest.fixture(scope="module")
def saved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spcnet.save_pretrained(run, tmp_path_factory.mktemp("hub") / "folder")


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_folder_gives_the_network_back(run: Path, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {"README.md", "config.json", MODEL_FILE}
    network = spcnet.from_pretrained(saved)
    assert not network.training
    assert equal(network, spcnet.load_model(run))
    assert equal(network, spcnet.from_pretrained(saved / MODEL_FILE))
    again = spcnet.save_pretrained(saved / MODEL_FILE, saved.parent / "again")
    assert equal(network, spcnet.from_pretrained(str(again)))


def test_a_folder_that_goes_on_keeps_its_model_card(saved: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(saved, first)
    text = (first / "README.md").read_text() + "\nNot for rain in the Alps.\n"
    (first / "README.md").write_text(text)
    spcnet.save_pretrained(first, tmp_path / "second")
    assert (tmp_path / "second" / "README.md").read_text() == text
    spcnet.save_pretrained(first, first, repo_id="owner/name")  # onto itself
    assert '"OWNER/NAME"' in text
    assert (first / "README.md").read_text() == text.replace('"OWNER/NAME"', '"owner/name"')
    assert checkpoint.read(first / MODEL_FILE)[2] == {"iteration": 40}
    (first / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read .*README\.md"):
        spcnet.save_pretrained(first, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_card_tells_of_the_optimiser_its_schedule_and_the_average(run: Path) -> None:
    found = load_run(run)
    training = TrainingConfig(
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=0.05,
        schedule="cosine",
        backbone_factor=0.1,
        warmup=1500,
        ema=0.9998,
    )
    last = dataclasses.replace(found.evaluations[-1], ema=0.9998)
    other = dataclasses.replace(
        found, config={**found.config, "training": as_dict(training)}, evaluations=(*found.evaluations[:-1], last)
    )
    text = model_card(restore(run)[1], other)
    assert (
        "40000 iterations of AdamW, learning rate 0.0001, betas 0.9, 0.999, weight decay 0.05, cosine decay, backbone_factor 0.1, "
        "warmup 1500, ema 0.9998, seed 0" in text
    )
    assert "the weights are the exponential moving average of those that were trained, 0.9998 of it" in text


def test_nothing_is_written_for_a_repository_that_cannot_be(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write OWNER/NAME"):
        spcnet.save_pretrained(saved, tmp_path / "out", repo_id="name")
    assert not (tmp_path / "out").exists()


def test_the_model_card_tells_how_images_were_looked_at(run: Path) -> None:
    network_card, found = restore(run)[1], load_run(run)
    assert "own size, whole images at one scale;" in model_card(network_card, found)
    evaluations = (dataclasses.replace(found.final, views="windows of 64×64, hann"),)
    windowed = dataclasses.replace(found, evaluations=evaluations)
    assert "own size, windows of 64×64, hann;" in model_card(network_card, windowed)


def test_no_path_of_the_machine_goes_along(saved: Path) -> None:
    for path in saved.iterdir():
        content = path.read_bytes()
        assert b"secret" not in content, path
        assert b"someone" not in content, path
    assert restore(saved)[1].model["weights"] == "imagenet.pth"
    assert checkpoint.read(saved / MODEL_FILE)[2] == {"iteration": 40}


def test_the_configuration_says_what_the_network_is(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert (config["library_name"], config["method"], config["size"]) == ("spcnet", "spcnet", [128, 256])
    assert config["classes"] == list(SPACE.classes)
    assert config["model"]["output_stride"] == 32


def front_of(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found
    front: dict[str, Any] = yaml.safe_load(found[1])
    return front


def test_the_model_card_begins_with_what_the_hub_reads(saved: Path) -> None:
    text = (saved / "README.md").read_text()
    front = front_of(text)
    assert front["library_name"] == "spcnet"
    assert front["pipeline_tag"] == "image-segmentation"
    assert front["license"] == "other"
    assert {"spcnet", "shufflenet_v2", "domain-generalization"} <= set(front["tags"])
    data = huggingface_hub.ModelCard(text).data
    assert [(result.dataset_type, result.metric_type) for result in data.eval_results] == [
        (name, "mean_iou") for name in DOMAINS
    ]


def test_the_model_card_tells_the_results_of_the_run(run: Path, saved: Path) -> None:
    text = (saved / "README.md").read_text()
    record = json.loads((run / "results.jsonl").read_text())
    for name, domain in record["domains"].items():
        row = f"| {name} | {domain['role']} | {domain['images']} | {100 * domain['miou']:.1f} | {100 * domain['pixel_accuracy']:.1f} |"
        assert row in text
    assert f"| mean | unseen domains | | {100 * record['mean_unseen_miou']:.1f} | |" in text
    (living,) = re.findall(r"^\| living \|.*$", text, re.MULTILINE)
    assert [cell.strip() for cell in living.strip("|").split("|")][3] == "absent"
    values = [result["metrics"][0]["value"] for result in front_of(text)["model-index"][0]["results"]]
    assert values == [round(domain["miou"], 4) for domain in record["domains"].values()]


def test_the_model_card_tells_data_terms_protocol_and_limits(saved: Path) -> None:
    text = (saved / "README.md").read_text()
    assert "| camvid | CamVid, the Cambridge-driving Labeled Video Database | unknown | Brostow" in text
    assert "| idd_lite@train | IDD-Lite, the small India Driving Dataset | unknown | Mishra" in text
    assert "The backbone began with the weights `imagenet.pth`." in text
    assert "40 iterations of SGD, learning rate 0.01" in text
    assert "seed 3" in text
    assert "output stride 32" in text
    assert "The weather of cityscapes+night is put on by a program" in text
    assert "0 drivable, 1 non-drivable" in text
    assert 'spcnet.from_pretrained("OWNER/NAME")' in text


def test_known_terms_are_told_and_all_others_are_unknown() -> None:
    assert hub.LICENCES.keys() <= spcnet.DATASETS.keys()
    card = checkpoint.ModelCard(
        "deeplabv3plus",
        as_dict(ModelConfig(weights=None)),
        SPACE.name,
        SPACE.classes,
        ("streets/game", "urbansyn", "ours"),
        None,
    )
    text = hub.model_card(card, None)
    assert "| streets/game | Streets | Apache-2.0, as this package |" in text
    assert "| urbansyn | UrbanSyn | CC BY-SA 4.0" in text
    assert "| ours | unknown | unknown | unknown |" in text
    assert "began with random weights" in text
    assert "Not recorded: the network came without its run." in text
    assert "model-index" not in front_of(text)


# From the Hub


def in_cache(saved: Path, cache: Path, repo_id: str) -> None:
    """Put a repository where the Hub's client keeps what it has downloaded."""
    folder = cache / f"models--{repo_id.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit / MODEL_FILE).write_bytes((saved / MODEL_FILE).read_bytes())


def test_what_the_cache_has_is_loaded_without_a_network(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    in_cache(saved, tmp_path, "owner/streets-net")
    network = spcnet.from_pretrained("owner/streets-net", cache_dir=tmp_path)
    assert equal(network, spcnet.from_pretrained(saved))
    with pytest.raises(
        CheckpointError, match="of owner/other: the Hub cannot be reached and the cache does not have it"
    ):
        spcnet.from_pretrained("owner/other", cache_dir=tmp_path)


class Answer:
    """As much of an answer of the Hub as its client's errors look at."""

    status_code, headers, request, text = 404, {"x-request-id": "1"}, None, ""
    reason_phrase, url = "", "https://huggingface.co"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RepositoryNotFoundError, "there is no such repository, or it is private"),
        (GatedRepoError, "its owner has to let you in"),
        (RevisionNotFoundError, "it has no revision v7"),
        (RemoteEntryNotFoundError, "the repository has no such file: it holds no network of spcnet"),
        (HfHubHTTPError, "500 of the server. Check the network and the token"),
    ],
)
def test_what_the_hub_refuses_is_told_in_one_line(
    error: type[HfHubHTTPError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error("500 of\nthe server", response=Answer())  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError) as found:
        spcnet.from_pretrained("owner/name", revision="v7")
    assert str(found.value).startswith("cannot get model.safetensors of owner/name: ")
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_the_revision_the_cache_and_the_token_are_handed_on(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def give(*given: object, **options: object) -> str:
        asked.append((given, options))
        return str(saved / MODEL_FILE)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    spcnet.from_pretrained("owner/name", revision="v1", cache_dir=tmp_path, token="t")
    assert asked == [(("owner/name", MODEL_FILE), {"revision": "v1", "cache_dir": tmp_path, "token": "t"})]


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../up/x", "owner/na me"])
def test_what_is_neither_a_folder_nor_a_repository_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a repository of the Hub"):
        spcnet.from_pretrained(name)


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no model.safetensors: give one that save_pretrained wrote"):
        spcnet.from_pretrained(tmp_path)


def test_a_damaged_network_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_bytes((saved / MODEL_FILE).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        spcnet.from_pretrained(tmp_path)


# To the Hub


class FakeApi:
    """The calls that pushing makes."""

    calls: list[tuple[str, dict[str, Any]]]
    error: Exception | None = None

    def __init__(self, token: str | None = None) -> None:
        type(self).calls = [("token", {"token": token})]

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("create", {"repo_id": repo_id, **options}))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.calls.append(("upload", {"files": files, **options}))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    fake = type("OwnApi", (FakeApi,), {})
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def test_pushing_makes_a_private_repository_and_uploads_the_folder(run: Path, saved: Path, api: type[FakeApi]) -> None:
    address = spcnet.push_to_hub(run, "owner/streets-net", token="t")
    assert address == "https://huggingface.co/owner/streets-net"
    assert api.calls[:2] == [
        ("token", {"token": "t"}),
        ("create", {"repo_id": "owner/streets-net", "private": True, "exist_ok": True}),
    ]
    name, uploaded = api.calls[2]
    assert (name, uploaded["repo_id"]) == ("upload", "owner/streets-net")
    assert uploaded["files"].keys() == {"README.md", "config.json", MODEL_FILE}
    assert uploaded["files"][MODEL_FILE] == (saved / MODEL_FILE).read_bytes()
    assert b'spcnet.from_pretrained("owner/streets-net")' in uploaded["files"]["README.md"]


def test_the_command_pushes_and_says_where(run: Path, api: type[FakeApi], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), "owner/name", "--no_private"]) == 0
    assert api.calls[1][1]["private"] is False
    assert "https://huggingface.co/owner/name" in capsys.readouterr().out


def test_the_command_can_write_a_folder_and_upload_nothing(
    run: Path, tmp_path: Path, api: type[FakeApi], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "owner/name", f"--folder={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / MODEL_FILE).is_file()
    assert not hasattr(api, "calls")
    assert "nothing was uploaded" in " ".join(capsys.readouterr().out.split())


def test_a_refused_upload_is_told_in_one_line(
    run: Path, api: type[FakeApi], capsys: pytest.CaptureFixture[str]
) -> None:
    api.error = ConnectionError("no route\nto host")
    assert main(["push", str(run), "owner/name"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot write to owner/name: no route to host. Check the network and the token" in said
    with pytest.raises(DataError):
        spcnet.push_to_hub(run, "owner/name")
    with pytest.raises(UsageError, match="write OWNER/NAME"):
        spcnet.push_to_hub(run, "name")


def test_a_missing_client_is_told_with_the_remedy(run: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: spcnet.from_pretrained("owner/name"), lambda: spcnet.push_to_hub(run, "owner/name")):
        with pytest.raises(UsageError, match=r"pip install huggingface_hub, or use a folder"):
            call()
    assert not spcnet.from_pretrained(saved).training


def test_all_public_names_can_be_had() -> None:
    for name in spcnet.__all__:
        assert getattr(spcnet, name) is not None
    assert len(spcnet.DATASETS) > 10
