"""Download the official files: resumable, checked before use, with a bar."""

from __future__ import annotations

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddpm.base.faults import Fault
from ddpm.base.files import check_regular, disk_faults
from ddpm.base.hashes import CHUNK, checksums
from ddpm.base.locks import locked
from ddpm.base.progress import progress_bar

TIMEOUT = 60.0  # seconds without an answer or a byte
RETRIES = 5  # tries in a row that bring fewer than FRUIT bytes, before the next address
FRUIT = 100_000
TRIES = 100  # in all, of an address
PAUSE = 1.0  # seconds before a further try
LEAST = 1000, 60.0  # bytes a second, over so many seconds: less is given up, and tried again
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set as its publisher offers it."""

    name: str  # without folders
    size: int  # in bytes
    urls: tuple[str, ...]  # http(s), the official one first
    by_hand: str  # what to do when no address answers
    md5: str | None = None  # in hex; one of the two at least
    sha256: str | None = None

    def difference(self, found: tuple[int, str, str]) -> str | None:
        """What distinguishes a file from this one, by its size, MD5 and SHA-256, or None."""
        size, md5, sha256 = found
        if size != self.size:
            return f"it has {size} bytes, not {self.size}"
        for kind, sum_, wanted in (("md5", md5, self.md5), ("sha256", sha256, self.sha256)):
            if wanted not in (None, sum_):
                return f"its {kind} is {sum_}, not {wanted}"
        return None


class _RefusalError(Exception):
    """An address answers with something else than the file: the next one is due."""


def fetch(file: RemoteFile, folder: Path) -> Path:
    """The path of `file` in `folder`, downloaded unless it is there already; its size and checksums are right.

    The addresses are tried in order. What has arrived is kept as NAME.part and continued by the next call. A file of
    that name with another content is kept as NAME.other. Raises Fault, which lists each address with its reason and says
    what to do by hand, if none gave the file.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.is_file() and file.difference(checksums(target)) is None:
        return target  # so that a folder that is only read will do
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{file.name}.lock"):
        if os.path.lexists(target):
            check_regular(target, "move it away, and the official file is downloaded")
            if (fault := file.difference(checksums(target))) is None:
                return target
            print(f"{target}: not the official file ({fault}); downloading that")
        reasons = []
        for url in file.urls:
            try:
                _download(url, part, file)
            except _RefusalError as refusal:
                reasons.append(f"{url}: {refusal}")
                continue
            if target.exists():
                target.replace(folder / f"{file.name}.other")
            return part.replace(target)
    tried = "\n".join(f"  {reason}" for reason in reasons)
    raise Fault(f"{file.name} could not be downloaded:\n{tried}\n{file.by_hand}\nPut it into the folder {folder}")


def _download(url: str, part: Path, file: RemoteFile) -> None:
    """Bring `part` to the whole, checked file. Raises _RefusalError; then `part` is what it was, or more of the same.

    What comes from the first byte on, though a part is there, goes to a file beside it until it is known to be more.
    """
    anew = part.with_name(f"{part.name}.anew")
    anew.unlink(missing_ok=True)
    if _size(part) > file.size:
        part.unlink()
    try:
        _bring(url, part, anew, file)
    finally:
        if _size(anew) > _size(part) and _begins_with(anew, part):
            anew.replace(part)
        anew.unlink(missing_ok=True)
        if not _size(part):
            part.unlink(missing_ok=True)


def _bring(url: str, part: Path, anew: Path, file: RemoteFile) -> None:
    """As `_download`, with `anew` in use as long as that takes."""
    left, into = _size(part), part
    best, fruitless, reason = left, 0, ""
    for _ in range(TRIES):
        try:
            if _size(into) < file.size:
                into = _receive(url, into, anew, file)
            if (fault := file.difference(checksums(into))) is None:
                into.replace(part)
                return
            if into is anew or not left:
                into.unlink()
                raise _RefusalError(f"wrong content: {fault}")
            os.truncate(part, left)
            into, best = anew, 0  # what an earlier call left may be at fault: once more, from the start
            continue
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise _RefusalError(f"HTTP {error.code} {error.reason}") from error
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # no connection, or it broke
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:  # an address that is none, at the end of a redirection
            raise _RefusalError(f"leads to a malformed address ({error})") from error
        now = max(_size(part), _size(anew))
        fruitless = 0 if now >= best + FRUIT else fruitless + 1
        best = max(best, now)
        if fruitless == RETRIES:
            raise _RefusalError(reason)
        time.sleep(PAUSE)
    raise _RefusalError(f"{TRIES} tries did not bring the whole file; the last one: {reason}")


def _receive(url: str, into: Path, anew: Path, file: RemoteFile) -> Path:
    """Append what `into` lacks; if the server ignores the range, begin `anew`. Returns the one that now is as long as the file.

    Raises _RefusalError on an answer that is not the file, and OSError or HTTPException if the connection fails or is too
    slow; what has arrived till then is kept. Raises Fault if the disk refuses.
    """
    start = _size(into)
    headers = {"User-Agent": "ddpm-fetch", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        page = "answers with a web page, not the file (spent quota, or a moved file)"
        if answer.headers.get_content_type() == "text/html":
            raise _RefusalError(page)
        if answer.status == 206:
            content_range = answer.headers.get("Content-Range", "")
            if not re.fullmatch(rf"bytes {start}-\d+/({file.size}|\*)", content_range):
                raise _RefusalError(f"answers with the range {content_range!r}, not one from byte {start} of {file.size}")
        else:
            length = answer.headers.get("Content-Length", "")
            if re.fullmatch("[0-9]{1,18}", length) and int(length) != file.size:  # what is no number says nothing
                raise _RefusalError(f"offers {length} bytes, not {file.size}")
            into, start = anew if start else into, 0
        bar = progress_bar(total=file.size, initial=start, desc=file.name, unit="B", unit_scale=True)
        with disk_faults(into, file.size - start):
            stream = into.open("r+b" if start else "wb")
        with bar, stream:
            stream.seek(start)
            for chunk in _chunks(answer):
                if stream.tell() == 0 and _PAGE.match(chunk):
                    raise _RefusalError(page)
                if stream.tell() + len(chunk) > file.size:
                    stream.truncate(start)
                    raise _RefusalError(f"sends more than {file.size} bytes")
                with disk_faults(into, file.size - stream.tell()):
                    stream.write(chunk)
                    stream.flush()
                bar.update(len(chunk))
    if (got := _size(into)) < file.size:
        raise ConnectionError(f"the connection ended after {got} of {file.size} bytes")
    return into


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, as it arrives: nothing of it is lost when the connection breaks. Raises ConnectionError below LEAST."""
    since, got = time.monotonic(), 0
    while chunk := answer.read1(CHUNK):
        yield chunk
        got += len(chunk)
        if (passed := time.monotonic() - since) > LEAST[1]:
            if got < LEAST[0] * passed:
                raise ConnectionError(f"it brought {got / passed:.0f} bytes a second; fewer than {LEAST[0]} are given up")
            since, got = time.monotonic(), 0


def _size(path: Path) -> int:
    """Bytes of the file `path`, 0 where there is none."""
    if not os.path.lexists(path):
        return 0
    check_regular(path, "move it away, and the same command continues")
    return path.stat().st_size


def _begins_with(path: Path, beginning: Path) -> bool:
    """Whether the file `path` begins with all of the file `beginning`, which may be missing."""
    if not _size(beginning):
        return True
    with path.open("rb") as stream, beginning.open("rb") as wanted:
        return all(stream.read(len(chunk)) == chunk for chunk in iter(lambda: wanted.read(CHUNK), b""))
