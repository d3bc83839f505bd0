"""Servers of their own on loopback, for remotes of DVC: S3 (moto), SSH (OpenSSH), WebDAV (WsgiDAV), and a bad line to them."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_for

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((HOST, port)) == 0


@contextmanager
def running(command: list[str | Path], port: int, folder: Path, **env: str) -> Iterator[None]:
    """A server that listens on `port` while the block lasts; its output goes to a file in `folder`."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | env, stdout=log, stderr=subprocess.STDOUT)
    try:
        up = lambda: answers(port) or process.poll() is not None  # noqa: E731
        wait_for(up, f"{command[0]} to listen", 120)
        assert process.poll() is None, (folder / "server.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(30)


class Line:
    """A connection to `port` that can be cut: in each direction it passes so many bytes in all, then it stands still."""

    def __init__(self, port: int) -> None:
        self.target, self.left = port, {"up": float("inf"), "down": float("inf")}
        self.stalled = threading.Event()
        self.server = socket.create_server((HOST, 0))
        self.port = int(self.server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, direction: str, count: int) -> None:
        """Let `count` more bytes through, `up` to the server or `down` from it."""
        self.stalled.clear()
        self.left[direction] = count

    def mend(self) -> None:
        self.left = dict.fromkeys(self.left, float("inf"))

    def _accept(self) -> None:
        while True:
            client, _ = self.server.accept()
            try:
                upstream = socket.create_connection((HOST, self.target))
            except ConnectionRefusedError:  # the server has ended
                client.close()
                continue
            for source, sink, direction in ((client, upstream, "up"), (upstream, client, "down")):
                threading.Thread(target=self._pass_on, args=(source, sink, direction), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(1 << 14):
                if self.left[direction] < len(data):
                    self.stalled.set()
                    break  # what is open stays open: neither side hears of it until one of them ends
                self.left[direction] -= len(data)
                sink.sendall(data)
            else:
                sink.shutdown(socket.SHUT_WR)
                return
            while source.recv(1 << 14):  # until the killed client's system closes its end
                pass
        except OSError:
            pass
        for end in (source, sink):
            end.close()


# --- The servers: each yields its port and a way to change the last byte of an object -------------------------------

Damage = Callable[[str], None]


@contextmanager
def s3(folder: Path) -> Iterator[tuple[int, Damage, dict[str, str]]]:
    """S3 with the bucket ddpm, which one user may use: the last of the three is that user's key."""
    pytest.importorskip("dvc_s3", reason="needs the extra s3: pip install -e '.[s3]'")
    pytest.importorskip("moto.server", reason="needs the extra servers: pip install -e '.[servers]'")
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    preparing = 4  # requests below, before moto begins to ask who is there
    with running(command, port, folder, INITIAL_NO_AUTH_ACTION_COUNT=str(preparing)):
        common = {"endpoint_url": f"http://{HOST}:{port}", "region_name": "us-east-1"}
        anyone = {"aws_access_key_id": "first", "aws_secret_access_key": "first"}
        iam: Any = boto3.client("iam", **common, **anyone)
        iam.create_user(UserName="alice")
        made = iam.create_access_key(UserName="alice")["AccessKey"]
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="alice", PolicyName="store", PolicyDocument=json.dumps(allowed))
        key = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
        boto3.client("s3", **common, **anyone).create_bucket(Bucket="ddpm")
        client: Any = boto3.client("s3", **common, **key)

        def damage(name: str) -> None:
            place = {"Bucket": "ddpm", "Key": f"store/files/md5/{name[:2]}/{name[2:]}"}
            client.put_object(**place, Body=damaged(client.get_object(**place)["Body"].read()))

        yield port, damage, key


@contextmanager
def ssh(folder: Path) -> Iterator[tuple[int, Damage, dict[str, str]]]:
    """An sshd that lets the key `id` in `folder` in, and no password; `stranger` is a key that it does not know."""
    pytest.importorskip("dvc_ssh", reason="needs the extra ssh: pip install -e '.[ssh]'")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # without which root's sshd does not start
    for name in ("host", "id", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"ListenAddress {HOST}\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/id.pub\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    (folder / "store").mkdir()
    with running([sshd, "-D", "-e", "-f", folder / "sshd_config"], port, folder):
        yield port, damage_in(folder / "store"), {"user": getpass.getuser()}


@contextmanager
def webdav(folder: Path) -> Iterator[tuple[int, Damage, dict[str, str]]]:
    """A WebDAV server with the collection /ddpm for one user."""
    pytest.importorskip("dvc_webdav", reason="needs the extra webdav: pip install -e '.[webdav]'")
    pytest.importorskip("wsgidav", reason="needs the extra servers: pip install -e '.[servers]'")
    port, user = free_port(), {"user": "alice", "password": "secret"}
    (folder / "shared/ddpm").mkdir(parents=True)
    settings = {
        "host": HOST,
        "port": port,
        "provider_mapping": {"/": str(folder / "shared")},
        "simple_dc": {"user_mapping": {"*": {user["user"]: {"password": user["password"]}}}},
        "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
    }
    (folder / "wsgidav.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "wsgidav.server.server_cli", "--config", folder / "wsgidav.json"]
    with running(command, port, folder):
        yield port, damage_in(folder / "shared/ddpm"), user


def damaged(content: bytes) -> bytes:
    """`content` with another last byte."""
    return content[:-1] + bytes([content[-1] ^ 1])


def damage_in(folder: Path) -> Damage:
    """Changes the last byte of the object `name` in a remote that lies in `folder`; its mode, by which DVC goes, stays."""

    def damage(name: str) -> None:
        file = folder / "files/md5" / name[:2] / name[2:]
        mode = file.stat().st_mode
        file.chmod(0o644)
        file.write_bytes(damaged(file.read_bytes()))
        file.chmod(mode)

    return damage
