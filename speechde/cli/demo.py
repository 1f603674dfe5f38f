"""``speechde demo --model M --index I``: a page to try a model."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cache import cache_root
from speechde.cli.options import Device, Dtype, Model, open_for
from speechde.errors import ConfigError

if TYPE_CHECKING:
    from speechde.search.index import SearchIndex

EXAMPLES = (
    "speechde demo --model runs/quickstart/default-s0 --index speech.index",
    "speechde demo --model M --index I --host 0.0.0.0 --port 8080 --max-seconds 10 --max-mb 2",
    "speechde demo --model M --index I --name search.example.org",
)
log = logging.getLogger(__name__)


def demo(
    model: Model,
    index: Annotated[Path, typer.Option("--index", "-i", help="Folder of an index that this model made.")],
    host: Annotated[str, typer.Option(help="Address to serve from; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve from.")] = 7860,
    name: Annotated[
        list[str] | None, typer.Option(help="Name of a proxy in front of it; give the option once for each.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Results that are shown first.")] = 10,
    max_seconds: Annotated[float, typer.Option(help="Longest clip that is taken.")] = 30.0,
    max_mb: Annotated[float, typer.Option(help="Largest file that is taken.")] = 10.0,
    play: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder whose clips are played and pictures shown, too; may be given again. Default: where the "
            "command is started, where the index lies, and speechde's own cache."
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Serve a page on which an index is searched by voice, picture or text, and what is found is played and shown.

    It is for this machine alone unless --host says otherwise; it has no password. It answers under the names that it
    is started with, and to its own pages only. Nothing is sent anywhere, and uploads are deleted after an hour.
    """
    from speechde.demo.answers import Answers
    from speechde.demo.clips import Limits
    from speechde.demo.guard import Names
    from speechde.demo.page import application, build_page, serve
    from speechde.search.index import SearchIndex

    limits, opened, names = Limits(max_seconds, max_mb), SearchIndex.load(index), Names.of(host, name or ())
    folders = [Path.cwd(), index.resolve().parent, cache_root(), *(play or [])]
    if missing := [folder for folder in folders[3:] if not folder.is_dir()]:
        raise ConfigError(f"--play {missing[0]} is not a folder")
    page = build_page(Answers(open_for(opened, model, device, dtype), opened, limits, folders), k)
    if outside := unplayed(opened, folders):
        log.warning("files outside the page's folders are not shown, %s among them; --play FOLDER lets them", outside)
    if not is_loopback(host):
        log.warning("everybody who can reach %s:%d can search this index, and hear and see what is found", host, port)
    serve(application(page, limits.megabytes, names), host, port)


def unplayed(index: SearchIndex, folders: list[Path], looked_at: int = 1000) -> str | None:
    """The first clip or picture, of the first ``looked_at`` rows, that a page of these folders does not show."""
    from speechde.demo.clips import lies_below

    rows = index.rows.slice(0, looked_at)
    files = (rows[column].to_pylist() for column in ("audio", "image") if column in rows.column_names)
    return next((file for some in files for file in filter(None, some) if not lies_below(file, folders)), None)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
