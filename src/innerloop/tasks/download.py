"""Fetching an official file: checked by hash, resumed where it stopped, with a progress line."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from innerloop.core.errors import DataError

_CHUNK = 1 << 18
_TIMEOUT = 20.0  # seconds without an answer


def fetch(url: str, known_hash: str, target: str | os.PathLike[str]) -> Path:
    """`url` at `target`, downloaded unless it is there already.

    What arrived of an interrupted download stays in `target` + ".part" and is continued.

    Args:
        known_hash: checksum as pooch writes it, such as "md5:68d2...".

    Raises:
        DataError: no network, no permission, or another file than expected; the message says what to
            download and where to put it.
    """
    import pooch  # only a download needs it

    target = Path(target)
    part = target.with_name(target.name + ".part")

    def download(fname: str, action: str | os.PathLike[str] | None, pooch: object, **_: bool | None) -> None:
        _resume(fname, part)  # pooch's names: `fname` is the address, `action` the file to fill
        shutil.copyfile(part, str(action))

    # pooch announces each download on stderr; the progress line says it better.
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(url, known_hash, fname=target.name, path=target.parent, downloader=download)
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url} cannot be downloaded ({_reason(error)})",
            expected=f"a network connection, or the file at {target}",
            do=f"download {url} on another machine and put it at {target}",
        ) from error
    except ValueError as error:  # pooch's word for a checksum that does not match
        part.unlink(missing_ok=True)
        raise DataError(
            f"{url} is not the file that was published ({known_hash})",
            expected="the official file, unaltered",
            do=f"try again, or download it by other means and put it at {target}",
        ) from error
    part.unlink(missing_ok=True)
    return target


def _resume(url: str, part: Path) -> None:
    """Append to `part` what is missing of `url`, from the start if the server cannot continue."""
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with response, open(part, "ab" if response.status == 206 else "wb") as file:
        done = have if response.status == 206 else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            _progress(part.stem, done, total)
    if total and done < total:
        raise OSError(f"the connection closed after {done} of {total} bytes; run again to continue")


def _progress(name: str, done: int, total: int) -> None:
    if not sys.stderr.isatty():
        return
    share = f"{100 * done / total:3.0f} %" if total else ""
    end = "\n" if done >= total else ""
    sys.stderr.write(f"\rdownloading {name}  {done / 1e6:6.1f} of {total / 1e6:.1f} MB  {share}{end}")
    sys.stderr.flush()


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split())[:120]
