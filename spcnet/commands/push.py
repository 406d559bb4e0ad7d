"""`spcnet push`."""

from pathlib import Path

from rich.console import Console


def push(
    model: Path,
    repo_id: str,
    *,
    private: bool = True,
    merge: bool = False,
    folder: Path | None = None,
    console: Console | None = None,
) -> None:
    """Put a network with its model card on the Hugging Face Hub.

    Args:
        model: Folder of a run, or a file that `spcnet.load_model` reads.
        repo_id: Repository on the Hugging Face Hub, OWNER/NAME; made if need be.
        private: Of a new repository: only its owner sees it.
        merge: Put LoRA's updates into the weights, so that it is a plain network.
        folder: Write network and model card into this folder and upload nothing.
        console: Where the address is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    from spcnet.export.hub import push_to_hub, save_pretrained

    if folder is not None:
        message = f"Written to {save_pretrained(model, folder, repo_id=repo_id, merge=merge)}; nothing was uploaded"
    else:
        message = f"The network is at {push_to_hub(model, repo_id, private=private, merge=merge)}"
    (console or Console(quiet=True)).print(message, highlight=False, markup=False)
