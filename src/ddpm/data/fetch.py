"""Download the official files: resumable, checked before use, with a bar."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ddpm.base.faults import Fault
from ddpm.base.hashes import CHUNK, checksums
from ddpm.base.locks import locked
from ddpm.base.progress import progress_bar

TIMEOUT = 60.0  # seconds without an answer or a byte
RETRIES = 5  # tries in a row that bring no byte, before the next address
PAUSE = 1.0  # seconds before a further try


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
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / file.name, folder / f"{file.name}.part"
    with locked(folder / f"{file.name}.lock"):
        if target.exists():
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
    """Bring `part` to the whole, checked file. Raises _RefusalError; then `part` holds nothing known to be wrong."""
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before > file.size:
            part.unlink()
            before = 0
        try:
            if before < file.size:
                _receive(url, part, before, file)
            if (fault := file.difference(checksums(part))) is None:
                return
            part.unlink()
            if before == 0:
                raise _RefusalError(f"wrong content: {fault}")
            continue  # what an earlier call left may be at fault: once more, from the start
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise _RefusalError(f"HTTP {error.code} {error.reason}") from error
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # no connection, or it broke
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        now = part.stat().st_size if part.exists() else 0
        fruitless = 0 if now > before else fruitless + 1
        if fruitless == RETRIES:
            raise _RefusalError(reason)
        time.sleep(PAUSE)


def _receive(url: str, part: Path, start: int, file: RemoteFile) -> None:
    """Append what `part` lacks after byte `start`; begin anew if the server ignores the range.

    Raises _RefusalError on an answer that is not the file, OSError or HTTPException if the connection fails.
    """
    headers = {"User-Agent": "ddpm-fetch", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise _RefusalError("answers with a web page, not the file (spent quota, or a moved file)")
        if answer.status == 206:
            content_range = answer.headers.get("Content-Range", "")
            if not re.fullmatch(rf"bytes {start}-\d+/({file.size}|\*)", content_range):
                raise _RefusalError(f"answers with the range {content_range!r}, not one from byte {start} of {file.size}")
        else:
            start = 0
            length = answer.headers.get("Content-Length")
            if length is not None and int(length) != file.size:
                raise _RefusalError(f"offers {length} bytes, not {file.size}")
        bar = progress_bar(total=file.size, initial=start, desc=file.name, unit="B", unit_scale=True)
        with bar, part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            while chunk := answer.read(CHUNK):
                if stream.tell() + len(chunk) > file.size:
                    stream.close()
                    part.unlink()
                    raise _RefusalError(f"sends more than {file.size} bytes")
                stream.write(chunk)
                bar.update(len(chunk))
    if (got := part.stat().st_size) < file.size:
        raise ConnectionError(f"the connection ended after {got} of {file.size} bytes")
