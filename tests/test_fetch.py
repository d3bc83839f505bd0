"""Downloads against real servers on the loopback: with and without ranges, cut, wrong, refusing."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ddpm.base.faults import Fault
from ddpm.base.hashes import checksums
from ddpm.data import fetch as fetch_module
from ddpm.data.fetch import RemoteFile, fetch

CONTENT = bytes(i * 7 % 251 for i in range(300_000))


class Server:
    """Serves `content`; `mode` says how; counts the bytes of bodies sent and keeps the requests' Range headers."""

    def __init__(self, content: bytes = CONTENT, mode: str = "ranges", cut_after: int = 0) -> None:
        self.content, self.mode, self.cut_after = content, mode, cut_after
        self.sent = 0
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.bin"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        header = handler.headers.get("Range")
        self.ranges.append(header)
        if self.mode.isdigit():
            handler.send_error(int(self.mode))
            return
        if self.mode.startswith("to "):
            handler.send_response(302)
            handler.send_header("Location", self.mode[3:])
            handler.end_headers()
            return
        if self.mode == "html":
            body = b"<html>Quota exceeded</html>"
            handler.send_response(200)
            handler.send_header("Content-Type", "text/html; charset=utf-8")
        elif header and self.mode not in ("no ranges", "no length") and not self.mode.startswith("length"):
            match = re.fullmatch(r"bytes=(\d+)-", header)
            assert match
            start = int(match[1])
            body = self.content[start:]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            body = self.content
            handler.send_response(200)
        if self.mode.startswith("length "):
            handler.send_header("Content-Length", self.mode[7:])
        elif self.mode != "no length":
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.mode in ("trickle", "reset", "half"):
            body = body[: (len(body) + 1) // 2]
            self.sent += len(body)
            for start in range(0, len(body), 50 if self.mode == "trickle" else 50_000):
                try:
                    handler.wfile.write(body[start : start + (50 if self.mode == "trickle" else 50_000)])
                except OSError:  # the client has had enough
                    return
                time.sleep(0.02 if self.mode != "half" else 0)
            if self.mode == "reset":  # the system drops what it has not sent, and says so to the client
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handler.connection.close()
            handler.close_connection = True
            return
        if self.cut_after:
            body, self.cut_after = body[: self.cut_after], 0
        self.sent += len(body)  # before it is sent: the client may look as soon as it has all
        handler.wfile.write(body)
        handler.close_connection = True


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "PAUSE", 0.0)


def described(*urls: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile(
        name="file.bin",
        size=len(content),
        md5=hashlib.md5(content).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        urls=urls,
        by_hand="Ask the publisher.",
    )


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"file.bin.lock"}


def test_checksums_are_those_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert checksums(tmp_path / "f") == (len(CONTENT), hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("mode", ["ranges", "no ranges", "no length"])
def test_a_file_is_fetched_once(tmp_path: Path, serve: Any, mode: str) -> None:
    server = serve(mode=mode)
    file = described(server.url)
    assert fetch(file, tmp_path) == tmp_path / "file.bin"
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    (tmp_path / "file.bin.lock").unlink()
    fetch(file, tmp_path)
    assert len(server.ranges) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"], "a folder that is only read will do"


def test_a_part_is_continued_where_it_ends(tmp_path: Path, serve: Any) -> None:
    server = serve()
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:200_000])
    fetch(described(server.url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.sent == 100_000
    assert server.ranges == ["bytes=200000-"]


def test_a_cut_connection_is_continued(tmp_path: Path, serve: Any) -> None:
    server = serve(cut_after=120_000)
    fetch(described(server.url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.sent == len(CONTENT)
    assert server.ranges == [None, "bytes=120000-"]


def test_a_server_without_ranges_starts_over(tmp_path: Path, serve: Any) -> None:
    server = serve(mode="no ranges")
    (tmp_path / "file.bin.part").write_bytes(b"x" * 200_000)
    fetch(described(server.url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("left", [b"x" * 200_000, b"x" * len(CONTENT), b"x" * 400_000], ids=["part", "whole", "longer"])
def test_what_a_broken_call_left_does_not_spoil_the_next(tmp_path: Path, serve: Any, left: bytes) -> None:
    server = serve()
    (tmp_path / "file.bin.part").write_bytes(left)
    fetch(described(server.url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_nothing_of_it_kept(tmp_path: Path, serve: Any) -> None:
    server = serve(content=b"y" + CONTENT[1:])
    with pytest.raises(Fault, match=r"wrong content: its md5 is [0-9a-f]{32}, not "):
        fetch(described(server.url), tmp_path)
    assert listing(tmp_path) == set()


def test_a_wrong_sha256_alone_is_refused(tmp_path: Path, serve: Any) -> None:
    file = dataclasses.replace(described(serve().url), md5=None, sha256="0" * 64)
    with pytest.raises(Fault, match="its sha256 is "):
        fetch(file, tmp_path)
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "html"}, "web page"),
        ({"content": CONTENT[:1000]}, "offers 1000 bytes, not 300000"),
        ({"content": CONTENT + b"more", "mode": "no length"}, "sends more than 300000 bytes"),
        ({"mode": "404"}, "HTTP 404"),
    ],
    ids=["page", "short", "endless", "gone"],
)
def test_the_next_address_follows_a_refusal(
    tmp_path: Path, serve: Any, options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = serve(**options), serve()
    fetch(described(bad.url, good.url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(bad.ranges) == 1, "a refusal is final"
    (tmp_path / "file.bin").unlink()
    with pytest.raises(Fault, match=re.escape(bad.url) + ".*" + reason):
        fetch(described(bad.url), tmp_path)


def test_a_page_does_not_replace_the_part(tmp_path: Path, serve: Any) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:200_000])
    with pytest.raises(Fault):
        fetch(described(serve(mode="html").url), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:200_000]


def test_when_all_fail_each_address_is_named_with_its_reason_and_the_way_by_hand(tmp_path: Path, serve: Any) -> None:
    page, busy = serve(mode="html"), serve(mode="503")
    silent = serve()
    silent.http.shutdown()
    silent.http.server_close()
    with pytest.raises(Fault) as caught:
        fetch(described(page.url, busy.url, silent.url), tmp_path)
    message = str(caught.value)
    assert f"{page.url}: answers with a web page" in message
    assert f"{busy.url}: HTTP 503" in message
    assert f"{silent.url}: [Errno" in message
    assert "Ask the publisher." in message
    assert str(tmp_path) in message
    assert len(busy.ranges) == fetch_module.RETRIES


def test_another_file_of_that_name_is_kept_aside(tmp_path: Path, serve: Any) -> None:
    (tmp_path / "file.bin").write_bytes(b"a person's own")
    with pytest.raises(Fault):
        fetch(described(serve(mode="html").url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"a person's own"
    fetch(described(serve().url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert (tmp_path / "file.bin.other").read_bytes() == b"a person's own"


@pytest.mark.parametrize(
    ("content", "mode"),
    [(CONTENT + b"more", "no length"), (CONTENT + b"more", "length abc"), (b"y" + CONTENT[1:], "no ranges"), (b"?", "404")],
)
def test_a_right_part_survives_a_server_that_is_wrong(tmp_path: Path, serve: Any, content: bytes, mode: str) -> None:
    """An answer from the first byte on, too long or of other bytes, and one that is longer than it should be."""
    part = tmp_path / "file.bin.part"
    part.write_bytes(CONTENT[:200_000])
    with pytest.raises(Fault):
        fetch(described(serve(content, "ranges").url if mode == "404" else serve(content, mode).url), tmp_path)
    assert part.read_bytes() == CONTENT[:200_000]
    assert listing(tmp_path) == {"file.bin.part"}
    good = serve()
    fetch(described(good.url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert good.ranges == ["bytes=200000-"]


def test_a_right_part_survives_a_range_that_is_too_long(tmp_path: Path, serve: Any) -> None:
    server = serve(CONTENT + b"more")
    whole = described(server.url)
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:200_000])
    answer = server.answer

    def lie(handler: BaseHTTPRequestHandler) -> None:
        handler.send_header = lambda name, value: type(handler).send_header(  # type: ignore[method-assign]
            handler, name, value.replace("300003/300004", "299999/300000")
        )
        answer(handler)

    server.answer = lie
    with pytest.raises(Fault, match="sends more than 300000 bytes"):
        fetch(whole, tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:200_000]


@pytest.mark.parametrize("mode", ["half", "no ranges"])
@pytest.mark.parametrize("content", [CONTENT, b"y" * len(CONTENT)])
def test_a_server_that_always_breaks_off_is_asked_a_bounded_number_of_times(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, mode: str, content: bytes
) -> None:
    monkeypatch.setattr(fetch_module, "TRIES", 30)
    monkeypatch.setattr(fetch_module, "FRUIT", 1)
    server = serve(content, mode)
    if mode == "no ranges":
        answer = server.answer

        def cut(handler: BaseHTTPRequestHandler) -> None:
            server.cut_after = 150_000
            answer(handler)

        server.answer = cut
    try:
        fetch(described(server.url), tmp_path)
        assert content == CONTENT
        assert mode == "half", "which goes on where it broke off"
    except Fault:
        assert mode == "no ranges" or content != CONTENT
    assert len(server.ranges) <= 30


def test_what_arrived_before_a_reset_is_kept(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "TRIES", 1)
    with pytest.raises(Fault):
        fetch(described(serve(mode="reset").url), tmp_path)
    kept = (tmp_path / "file.bin.part").read_bytes()
    assert 100_000 <= len(kept) <= 150_000
    assert CONTENT.startswith(kept)


def test_a_trickle_is_given_up(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "LEAST", (100_000, 0.2))
    server = serve(mode="trickle")
    with pytest.raises(Fault, match="bytes a second; fewer than 100000 are given up"):
        fetch(described(server.url), tmp_path)
    assert len(server.ranges) == fetch_module.RETRIES


@pytest.mark.parametrize("written", ["abc", "300000, 300000", "", "-1", "9" * 400])
def test_a_length_that_is_no_number_says_nothing(tmp_path: Path, serve: Any, written: str) -> None:
    fetch(described(serve(mode=f"length {written}").url), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "place",
    ["http://[bad/", "http://" + "a" * 100 + ".example/", "http://host:port/", "http://a b/", "file:///etc/passwd", "//"],
)
def test_a_redirection_to_no_address_is_a_refusal(tmp_path: Path, serve: Any, place: str) -> None:
    bad, good = serve(mode=f"to {place}"), serve()
    with pytest.raises(Fault, match=re.escape(f"{bad.url}: ")):
        fetch(described(bad.url), tmp_path)
    fetch(described(bad.url, good.url), tmp_path)
    assert listing(tmp_path) == {"file.bin"}


@pytest.mark.parametrize("page", [b"<html>quota", b"\n <!DOCTYPE html>quota"])
def test_a_page_that_is_called_a_file_is_not_kept(tmp_path: Path, serve: Any, page: bytes) -> None:
    with pytest.raises(Fault, match="answers with a web page"):
        fetch(described(serve(page, "no length").url), tmp_path)
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("name", ["file.bin", "file.bin.part"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_what_is_no_file_is_not_opened(tmp_path: Path, serve: Any, name: str, make: Any) -> None:
    make(tmp_path / name)
    with pytest.raises(Fault, match=rf"{re.escape(str(tmp_path / name))}: .*move it away"):
        fetch(described(serve().url), tmp_path)


def test_two_processes_fetch_one_file_once(tmp_path: Path, serve: Any) -> None:
    server = serve()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fetch, args=(described(server.url), tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.sent == len(CONTENT)
