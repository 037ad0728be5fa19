"""The sets of word vectors that gensim's downloader offers: found in its folder, or fetched."""

import json
import os
import shutil
from pathlib import Path

from mmlabel import network
from mmlabel.cache import atomic_write, turn
from mmlabel.errors import UserError, nearest

_MOST_LIST, _MOST_VECTORS = 10_000_000, 20_000_000_000  # bytes

# The word vectors that gensim's downloader offers. It keeps no list of its own without a network,
# and a closed machine should tell a misspelt name from one that is merely not there.
GENSIM_NAMES = (
    "conceptnet-numberbatch-17-06-300",
    "fasttext-wiki-news-subwords-300",
    "glove-twitter-25",
    "glove-twitter-50",
    "glove-twitter-100",
    "glove-twitter-200",
    "glove-wiki-gigaword-50",
    "glove-wiki-gigaword-100",
    "glove-wiki-gigaword-200",
    "glove-wiki-gigaword-300",
    "word2vec-google-news-300",
    "word2vec-ruscorpora-300",
)


class NotToBeHad(Exception):
    """A set of vectors is neither on this machine nor can it be downloaded."""


def gensim_file(name: str) -> Path:
    """The file of one of gensim's sets, downloaded if need be.

    gensim's own `load` asks the network, without a time limit, even for a set that is present, and
    keeps all of its vectors in memory; so only its addresses and its layout are used.
    """
    folder = Path(os.path.expanduser(os.environ.get("GENSIM_DATA_DIR") or "~/gensim-data"))
    if path := _present(folder, name):
        return path
    present = sorted(entry.name for entry in folder.glob("*") if _present(folder, entry.name))
    known = {*GENSIM_NAMES, *present, *_listed(folder)}
    tried = f"word vectors {name} are not in {folder} (which has {', '.join(present) or 'none'})"
    from gensim import downloader

    try:
        listing = network.fetch(downloader.DATA_LIST_URL, max_bytes=_MOST_LIST)
        online = _models(listing)
    except (network.NetworkError, ValueError) as error:
        if name not in known:
            hint = nearest(name, known)
            raise UserError(f"unknown word vectors embedding.name={name}{hint}") from error
        raise NotToBeHad(f"{tried} and could not be downloaded ({error})") from error
    if name not in online:
        hint = nearest(name, known | set(online))
        raise UserError(f"unknown word vectors embedding.name={name}{hint}")
    try:
        with turn(folder / name):
            if not _present(folder, name):
                _download(online[name], f"{downloader.DOWNLOAD_BASE_URL}/{name}", folder / name)
    except (network.NetworkError, OSError, ValueError) as error:
        raise NotToBeHad(f"{tried} and could not be downloaded ({error})") from error
    if path := _present(folder, name):
        return path
    raise NotToBeHad(f"{folder / name} holds no vectors; remove it, to download it again")


def _present(folder: Path, name: str) -> Path | None:
    """The file with a set's vectors in gensim's folder, if it is there."""
    file_name = str(_listed(folder).get(name, {}).get("file_name", f"{name}.gz"))
    path = folder / name / Path(file_name).name
    return path if path.is_file() else None


def _listed(folder: Path) -> dict[str, dict]:
    """The word vectors in gensim's list as it was last downloaded; none if it never was."""
    try:
        return _models((folder / "information.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _models(listing: bytes) -> dict[str, dict]:
    """What gensim's list says of each set of word vectors; raises ValueError if it is no such."""
    content = json.loads(listing)
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict):
        raise ValueError("not gensim's list of word vectors")
    return {name: entry for name, entry in models.items() if isinstance(entry, dict)}


def _download(entry: dict, base_url: str, folder: Path) -> None:
    """Fetch a set as gensim's list describes it, in gensim's layout."""
    name, parts = folder.name, int(entry.get("parts", 1))
    target = folder / f"{name}.gz"
    # gensim takes a folder for a set that is present, and imports it.
    initial = network.fetch(f"{base_url}/__init__.py", max_bytes=_MOST_LIST)
    pieces = [target] if parts == 1 else [folder / f"{name}.gz_0{part}" for part in range(parts)]
    for part, piece in enumerate(pieces):
        network.fetch_file(
            f"{base_url}/{name}.gz" if parts == 1 else f"{base_url}/{piece.name}",
            piece,
            max_bytes=_MOST_VECTORS,
            checksum=("md5", entry.get("checksum" if parts == 1 else f"checksum-{part}", "")),
            resume=True,
            work=piece.name,
        )
    if parts > 1:
        with atomic_write(target) as temporary, open(temporary, "wb") as whole:
            for piece in pieces:
                with open(piece, "rb") as opened:
                    shutil.copyfileobj(opened, whole)
        for piece in pieces:
            piece.unlink()
    with atomic_write(folder / "__init__.py") as temporary:
        temporary.write_bytes(initial)
