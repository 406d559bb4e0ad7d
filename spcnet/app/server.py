"""Starts the demo and ends it: one folder for everything that comes in or goes out, removed at the end."""

import importlib.util
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from spcnet.app.guard import Guard
from spcnet.app.studio import Studio
from spcnet.app.uploads import Limits
from spcnet.errors import UsageError
from spcnet.inference.engines import EngineOptions
from spcnet.runs import OpenRun
from spcnet.signals import terminate_as_interrupt

STORED_BYTES = 2**31
"""Of uploads and results on the disk; above it nothing is taken in until the oldest are an hour old and go."""


@dataclass(frozen=True)
class Address:
    """Where the demo listens."""

    host: str = "127.0.0.1"
    """0.0.0.0 for all addresses of this machine."""
    port: int = 0
    """0 for any that is free."""
    share: bool = False
    """Make a public address through Gradio's servers."""


def serve(
    runs: Sequence[OpenRun],
    address: Address,
    *,
    limits: Limits,
    device: str = "auto",
    engines: Sequence[EngineOptions] | None = None,
    console: Console,
) -> None:
    """Show the demo until the user stops it.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        KeyboardInterrupt: the user stopped it; nothing is left.
    """
    with (
        terminate_as_interrupt(),
        running(runs, address, limits=limits, device=device, engines=engines, console=console) as url,
    ):
        console.print(f"The demo is at {url} (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True)
        threading.Event().wait()


@contextmanager
def running(
    runs: Sequence[OpenRun],
    address: Address = Address(),
    *,
    limits: Limits,
    device: str = "auto",
    engines: Sequence[EngineOptions] | None = None,
    console: Console | None = None,
) -> Iterator[str]:
    """The demo's address while it runs; arguments and errors as for `serve`."""
    for package in ("gradio", "av"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"the web demo needs a package that is not installed ({package}): pip install gradio av")
    console = console or Console(quiet=True)
    address = replace(address, port=free_port(address.host, address.port))
    with TemporaryDirectory(prefix="spcnet-app-") as name, _environment(Path(name).resolve()) as folder:
        with console.status("read the networks and draw scenes", spinner="dots"):
            studio = Studio(runs, limits=limits, device=device, engines=engines)
            # Only now: it takes its folders from the environment.
            from spcnet.app import page

            blocks = page.build(studio, folder=folder)
        try:
            yield _launch(blocks, address, limits=limits, folder=folder)
        finally:
            blocks.close(verbose=False)


def _launch(blocks: Any, address: Address, *, limits: Limits, folder: Path) -> str:
    import gradio as gr
    from starlette.middleware import Middleware

    from spcnet.app.page import SCRIPT, STYLESHEET

    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    try:
        blocks.launch(
            server_name=address.host,
            server_port=address.port,
            share=address.share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            inbrowser=False,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            blocked_paths=[],
            max_file_size=limits.bytes,
            state_session_capacity=1000,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            strict_cors=True,
            css_paths=STYLESHEET,
            head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
            theme=gr.themes.Default(font=fonts, font_mono=("ui-monospace", "Consolas", "monospace")),
            app_kwargs={"middleware": [Middleware(Guard, folder=folder.parent, stored=STORED_BYTES)]},
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the server does not start at {address.host}:{address.port} ({' '.join(str(error).split())}): choose another --host or "
            "--port, and where a proxy is set let it leave out this machine, NO_PROXY=localhost,127.0.0.1"
        ) from error
    return str(blocks.share_url or blocks.local_url)


def free_port(host: str, port: int) -> int:
    """The port, or any free one for 0.

    Raises:
        UsageError: it is taken, or this machine has no such address.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: it must lie in 0 (any) .. 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise UsageError(
                f"cannot listen at {host}:{port} ({error.strerror or error}): choose another --port, or 0 for any that is free"
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def _environment(folder: Path) -> Iterator[Path]:
    """What Gradio reads from the environment: its folders, and that it tells nobody of itself."""
    options = {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ALLOWED_PATHS": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {name: os.environ.get(name) for name in options}
    os.environ.update(options)
    (folder / "files").mkdir()
    (folder / "own").mkdir()
    try:
        yield folder / "own"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
