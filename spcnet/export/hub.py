"""A trained network as a folder to hand on, and the way to the Hugging Face Hub and back.

The folder holds `model.safetensors` (the network and all that is needed to build it), `config.json` (the same card for
other programs) and `README.md` (the model card, filled from the run). No path of the machine that trained it goes along.
Nothing in it can run code, and nothing is ever unpickled.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import yaml

from spcnet import checkpoint
from spcnet.checkpoint import MODEL_FILE, ModelCard
from spcnet.config import DomainSpec, TrainingConfig, as_dict
from spcnet.cost import parameter_counts
from spcnet.data.catalog import DATASETS
from spcnet.errors import CheckpointError, DataError, UsageError
from spcnet.file_kinds import split_part
from spcnet.files import write_text
from spcnet.formatting import percent
from spcnet.methods import method_named, plain_network
from spcnet.models.network import MIN_SIZE, Segmentor
from spcnet.reports.runs import Run, load_run
from spcnet.runs import OpenRun

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("card.md")
"""Of the model card."""
CONFIG_JSON = "config.json"
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
LICENCES: dict[str, str] = {
    "streets": "Apache-2.0, as this package",
    "urbansyn": "CC BY-SA 4.0 (https://huggingface.co/datasets/UrbanSyn/UrbanSyn)",
    "cityscapes": "its own terms of use (https://www.cityscapes-dataset.com/license/)",
}
"""Terms of the data sets whose terms are known here; of all others they are unknown."""


def save_pretrained(model: Path | str, folder: Path | str, *, repo_id: str | None = None, merge: bool = False) -> Path:
    """Write a trained network as a folder that `from_pretrained` reads and the Hub shows.

    Args:
        model: folder of a run, whose results the model card tells; a folder that this function wrote, whose model card is
            kept with what was written into it since; or a file that `spcnet.load_model` reads.
        folder: where to; files of the same name are replaced, others stay.
        repo_id: `OWNER/NAME` of the repository that the model card tells to load from.
        merge: write a plain network, with its low-rank updates in the weights (`spcnet.models.adapters.merge`). Without it a
            network whose run did not save the base of its adapter goes without that, too.

    Returns:
        The folder.

    Raises:
        CheckpointError: there is no network.
        DataError: the run's records are broken, or the folder cannot be written.
        UsageError: the name of the repository is none.
    """
    if repo_id is not None:
        _check_name(repo_id)
    model, folder = Path(model), Path(folder)
    opened = OpenRun(model)
    network, card = plain_network(opened.network, opened.card) if merge else (opened.network, opened.card)
    run = load_run(model) if opened.is_run else None
    weights = card.model.get("weights")
    # Where the weights lay is nobody's business; what they were is.
    base = card.base and {**card.base, "weights": Path(card.base["weights"]).name}
    public = dataclasses.replace(card, model={**card.model, "weights": weights and Path(weights).name}, base=base)
    iteration = run.final.iteration if run is not None else opened.iteration
    written = run is None and (model / CONFIG_JSON).is_file() and (model / CARD_FILE).is_file()
    text = (
        _kept_card(model / CARD_FILE, repo_id)
        if written
        else model_card(public, run, repo_id=repo_id, counts=parameter_counts(opened.network))
    )
    write_text(folder / CARD_FILE, text)
    config = {
        "library_name": "spcnet",
        "spcnet_version": importlib.metadata.version("spcnet"),
        **public.fields(),
    }
    write_text(folder / CONFIG_JSON, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    averaged = {"ema": opened.ema} if opened.ema else {}
    # Last, for a folder with a network is taken for whole.
    stored = network.stored(whole=public.base is None)
    checkpoint.write(folder / MODEL_FILE, stored, public, {"iteration": iteration, **averaged})
    return folder


def _kept_card(path: Path, repo_id: str | None) -> str:
    """A model card that lies there, with the name of the repository that it goes to now."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}. Restore or remove it") from error
    if repo_id is None:
        return text
    return re.sub(r'(?<=spcnet\.from_pretrained\(")[^"]*(?="\))', repo_id, text)


def from_pretrained(
    folder_or_repo_id: Path | str,
    *,
    revision: str | None = None,
    cache_dir: Path | str | None = None,
    token: str | None = None,
) -> Segmentor:
    """A network from a folder that `save_pretrained` wrote, or from the Hub; in evaluation mode, on the CPU.

    ```python
    model = spcnet.from_pretrained("OWNER/NAME")
    ```

    Args:
        folder_or_repo_id: a folder, a file that `spcnet.load_model` reads, or `OWNER/NAME` of a repository on the Hub; what lies here under
            that name comes first.
        revision: branch, tag or commit of the repository.
        cache_dir: where downloads are kept; the Hub client's own place by default.
        token: of the Hub; the one that its client has stored by default.

    Raises:
        CheckpointError: there is no such folder or repository, it has no network, or the network is damaged.
        UsageError: the client of the Hub is not installed.
    """
    folder = Path(folder_or_repo_id)
    if split_part(folder).file.is_file():
        return OpenRun(folder).network
    if folder.is_dir():
        if not (folder / MODEL_FILE).is_file():
            raise CheckpointError(
                f"the folder {folder} has no {MODEL_FILE}: give one that save_pretrained wrote, or a repository as OWNER/NAME"
            )
        return OpenRun(folder / MODEL_FILE).network
    return OpenRun(download(str(folder_or_repo_id), revision=revision, cache_dir=cache_dir, token=token)).network


def download(
    repo_id: str, *, revision: str | None = None, cache_dir: Path | str | None = None, token: str | None = None
) -> Path:
    """Bring a repository's network into the cache, unless it is there, and say where its file lies.

    Args:
        repo_id: `OWNER/NAME`.
        revision: see `from_pretrained`, as for the following.
        cache_dir: where downloads are kept.
        token: of the Hub.

    Raises:
        CheckpointError: there is no such repository, revision or file, or the Hub cannot be reached.
        UsageError: the client of the Hub is not installed.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise CheckpointError(
            f"{repo_id!r} is neither a folder nor a repository of the Hub: check the path, or write OWNER/NAME"
        )
    hub = _client()
    try:
        return Path(hub.hf_hub_download(repo_id, MODEL_FILE, revision=revision, cache_dir=cache_dir, token=token))
    except Exception as error:  # the client's errors and its network's have no common base
        raise CheckpointError(f"cannot get {MODEL_FILE} of {repo_id}: {_why(error, revision)}") from error


def push_to_hub(
    model: Path | str,
    repo_id: str,
    *,
    private: bool = True,
    merge: bool = False,
    token: str | None = None,
    message: str = "Upload a network trained with spcnet",
) -> str:
    """Put a trained network with its model card into a repository of the Hub, which is made if it is not there.

    Args:
        model: folder of a run, or a file that `spcnet.load_model` reads.
        repo_id: `OWNER/NAME`.
        private: of a new repository, whether only its owner sees it; another stays as it is.
        merge: see `save_pretrained`.
        token: of the Hub; the one that its client has stored by default.
        message: of the commit.

    Returns:
        Address of the repository.

    Raises:
        CheckpointError: there is no network.
        DataError: the Hub refuses it or cannot be reached.
        UsageError: the name is none, or the client of the Hub is not installed.
    """
    _check_name(repo_id)
    api = _client().HfApi(token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, repo_id=repo_id, merge=merge)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # as above
            raise DataError(f"cannot write to {repo_id}: {_why(error, None)}") from error
    return str(address)


def _check_name(repo_id: str) -> None:
    if not REPO_ID.fullmatch(repo_id):
        raise UsageError(f"the repository is {repo_id!r}: write OWNER/NAME in letters, digits, dots, - and _")


def _client() -> Any:
    """The package huggingface_hub.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError(
            "the Hub needs the package huggingface_hub, which is not installed: pip install huggingface_hub, or use a folder"
        ) from error


_REASONS: tuple[tuple[str, str], ...] = (
    ("GatedRepoError", "its owner has to let you in: ask on its page, then log in with `hf auth login`"),
    (
        "RepositoryNotFoundError",
        "there is no such repository, or it is private: check the name, or log in with `hf auth login`",
    ),
    ("RevisionNotFoundError", "it has no revision {revision}: check its branches and tags"),
    ("LocalEntryNotFoundError", "the Hub cannot be reached and the cache does not have it: check the network"),
    ("EntryNotFoundError", "the repository has no such file: it holds no network of spcnet"),
    ("HFValidationError", "the Hub allows no such name: write OWNER/NAME"),
)
"""Name of an error of the client, and what it says to a user."""


def _why(error: Exception, revision: str | None) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for name, reason in _REASONS:
        if name in kinds:
            return reason.format(revision=revision)
    said = " ".join(str(error).split())
    return f"{said[:200] or type(error).__name__}. Check the network and the token (`hf auth login`)"


def model_card(
    card: ModelCard, run: Run | None, *, repo_id: str | None = None, counts: tuple[int, int] | None = None
) -> str:
    """The text of README.md: what the network is, what it was trained on and by what protocol, its metrics, its limits.

    Args:
        card: of the network.
        run: it was trained in; None where that is not known, and then the card says so.
        repo_id: `OWNER/NAME` of the repository that it goes to, where that is known.
        counts: how many numbers were trained, and how many the parameters have; None where that is not known.
    """
    front = {
        "library_name": "spcnet",
        "pipeline_tag": "image-segmentation",
        "license": "other",
        "license_name": "terms-of-the-training-data",
        "tags": ["semantic-segmentation", "domain-generalization", card.method, str(card.model["backbone"])],
        **({"model-index": [_model_index(run)]} if run is not None else {}),
    }
    sources = [(name, re.split(r"[/@+#]", name)[0]) for name in (run and run.setting("data.sources")) or card.domains]
    tested = run.final.domains if run is not None else {}
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template.filters |= {"percent": percent, "numbers": _numbers, "setting": lambda path: _setting(run, path)}
    return template.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        run=run,
        counts=counts,
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=f"{card.method} on {card.model['backbone']}, {len(card.classes)} classes",
        method=method_named(card.method),
        base_name="#".join(card.base[key] for key in ("weights", "part") if key in card.base) if card.base else None,
        repo_id=repo_id or "OWNER/NAME",
        min_size=MIN_SIZE,
        sources=[(name, DATASETS.get(key), LICENCES.get(key, "unknown")) for name, key in sources],
        optimisation=None if run is None else _optimisation(run),
        weak=[name for name, domain in tested.items() if domain.miou is not None and domain.miou < 0.3],
        styled=[name for name in tested if DomainSpec.parse(name).style],
    )


def _setting(run: Run | None, path: str) -> Any:
    value = None if run is None else run.setting(path)
    return "not recorded" if value is None else value


def _model_index(run: Run) -> dict[str, Any]:
    """The results as the Hub lists them."""
    results = [
        {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": f"{name} ({domain.role})", "type": name},
            "metrics": [{"type": "mean_iou", "value": round(domain.miou, 4)}],
        }
        for name, domain in run.final.domains.items()
        if domain.miou is not None
    ]
    return {"name": run.folder.name, "results": results}


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _optimisation(run: Run) -> str:
    """The optimiser and its schedule; a run of an earlier version had the defaults of what it does not name."""

    def value(name: str) -> Any:
        found = run.setting(f"training.{name}")
        return getattr(TrainingConfig, name) if found is None else found

    adamw, cosine = value("optimizer") == "adamw", value("schedule") == "cosine"
    own = f"betas {_numbers(value('betas'))}" if adamw else f"momentum {value('momentum')}"
    decay = "cosine decay" if cosine else f"polynomial decay with power {value('poly_power')}"
    further = {name: value(name) for name in _FURTHER if as_dict(getattr(TrainingConfig, name)) != as_dict(value(name))}
    return ", ".join(
        [
            f"{'AdamW' if adamw else 'SGD'}, learning rate {value('learning_rate')}",
            own,
            f"weight decay {value('weight_decay')}",
            decay,
            *(f"{name} {setting}" for name, setting in further.items()),
        ]
    )


_FURTHER = (
    "weight_decay_end",
    "decay_all",
    "backbone_factor",
    "layer_decay",
    "min_rate",
    "warmup",
    "warmup_factor",
    "backbone_warmup",
    "restart",
    "restart_factor",
    "clip_gradient",
    "ema",
    "ema_start",
)
"""Options of the optimisation that a card names where they are not the defaults."""
