"""What stands before the server: it lets through what the page asks for, and tells browsers to ask nobody else.

Gradio serves more than this page needs: it fetches addresses for whoever asks, keeps records of runs and answers other
programs. All that is not there. And a page may be restricted by its server in where it loads from
(Content-Security-Policy); here from nowhere else, so that nothing of a visitor's goes to anybody.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

API = "/gradio_api/"
NEEDED = ("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json")
"""Paths that the page asks for."""
NEEDED_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}heartbeat/", f"{API}file=")
"""Beginnings of paths that the page asks for."""
NEEDED_CALLS = tuple(
    f"{API}{name}"
    for name in (
        *("upload", "upload_progress", "queue/join", "queue/data", "startup-events", "theme.css"),
        *("app_id", "cancel", "reset"),
    )
)

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """Refuses requests that the page does not make.

    Args:
        app: the server behind.
        folder: where uploads and results lie.
        stored: bytes that may lie there; while there are more, nothing is taken in.
    """

    def __init__(self, app: App, *, folder: Path, stored: int) -> None:
        self.app, self.folder, self.stored = app, folder, stored

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = str(scope["path"])
        # Behind a proxy the path may begin with what the proxy calls this server.
        path = path.removeprefix(str(scope.get("root_path") or "").rstrip("/")) or "/"
        if not is_needed(path):
            await _answer(send, 404, b"not found")
            return
        if path == f"{API}upload" and _bytes_below(self.folder) > self.stored:
            await _answer(send, 507, b"the server's folder is full: try again later")
            return

        async def send_checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, send_checked)


def is_needed(path: str) -> bool:
    """Whether the page asks for such a path."""
    if path in NEEDED or path in NEEDED_CALLS:
        return True
    if not path.startswith(NEEDED_BELOW):
        return False
    # Gradio would fetch the address and hand it on.
    named = unquote(path.removeprefix(f"{API}file=")).strip().lower()
    return "://" not in named and not named.startswith(("http:", "https:", "//"))


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # removed meanwhile
            continue
    return total


async def _answer(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
