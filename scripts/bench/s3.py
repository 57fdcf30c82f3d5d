"""The S3 server of the tests, pgBackRest with a repository in it, and a proxy that counts requests."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

from servers import PgBackRest, free_port

BUCKET = "bench"
KEY, SECRET, REGION = "bench", "bench-secret", "us-east-1"


def find_weed():
    """Returns the program where scripts/setup.sh --all-versions puts it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for cache in [os.environ.get("BACKWHEN_PG_CACHE"), "/var/cache/backwhen", f"{home}/backwhen"]:
        if cache and (Path(cache) / "seaweedfs/weed").is_file():
            return Path(cache) / "seaweedfs/weed"
    raise SystemExit("bench: the S3 server is missing: scripts/setup.sh --all-versions")


class S3Server:
    """SeaweedFS with one bucket, by HTTP for backwhen and by HTTPS for pgBackRest, which speaks nothing else."""

    def __init__(self, folder):
        self.folder, self.port, self.tls_port = folder, free_port(), free_port()
        folder.mkdir()
        self.process = None

    def start(self):
        identity = {
            "name": "bench",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        nobody = {"name": "anonymous", "actions": ["Admin"]}
        (self.folder / "identities").write_text(json.dumps({"identities": [identity, nobody]}))
        self.make_certificate()
        options = {
            "dir": self.folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": "1024",
            "volume.max": "100",
            "volume.preStopSeconds": "0",
            "filer": "true",
            "filer.localSocket": self.folder / "filer",
            "s3": "true",
            "s3.localSocket": self.folder / "s3",
            "s3.config": self.folder / "identities",
            "s3.port": self.port,
            "s3.port.https": self.tls_port,
            "s3.cert.file": self.folder / "certificate",
            "s3.key.file": self.folder / "key",
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
        }
        names = ["master.port", "volume.port", "filer.port"]
        options |= {name: free_port() for name in [*names, *(f"{name}.grpc" for name in names), "s3.port.grpc"]}
        log = open(self.folder / "log", "ab")
        command = [find_weed(), "server", *(f"-{name}={value}" for name, value in options.items())]
        environment = {**os.environ, "TMPDIR": str(self.folder), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd="/")
        self.make_bucket()
        return self.process

    def make_certificate(self):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-keyout", self.folder / "key", "-out", self.folder / "certificate"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def make_bucket(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"bench: the S3 server does not come up; see {self.folder}/log")

    def variables(self, port=None):
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
        }

    def remove(self):
        self.process.kill()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


class PgBackRestOnS3(PgBackRest):
    """A pgBackRest repository in the bucket, compressed with zstd as the one on the local disk."""

    def __init__(self, folder, server, s3):
        super().__init__(folder, server)
        repository = {
            "repo1-type": "s3",
            "repo1-path": "/backrest",
            "repo1-s3-bucket": BUCKET,
            "repo1-s3-endpoint": "localhost",
            "repo1-storage-host": "127.0.0.1",
            "repo1-storage-port": s3.tls_port,
            "repo1-storage-verify-tls": "n",
            "repo1-s3-uri-style": "path",
            "repo1-s3-region": REGION,
            "repo1-s3-key": KEY,
            "repo1-s3-key-secret": SECRET,
        }
        text = self.config.read_text().replace(f"repo1-path={self.repository}\n", "")
        lines = "".join(f"{name}={value}\n" for name, value in repository.items())
        self.config.write_text(text.replace("[global]\n", f"[global]\n{lines}"))


class CountingProxy:
    """Passes requests on to the server, and counts them by their verbs; a GET with a prefix is a LIST."""

    def __init__(self, to):
        self.to, self.counts, self.lock = to, Counter(), threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def take(self):
        """Returns how many requests of each sort there were since the last call."""
        with self.lock:
            found, self.counts = dict(self.counts), Counter()
        return found

    def close(self):
        self.listener.close()

    def listen(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[client], daemon=True).start()

    def serve(self, client):
        with client, socket.create_connection(("127.0.0.1", self.to)) as server:
            asked, answered = client.makefile("rb"), server.makefile("rb")
            while request := read_message(asked):
                verb, target = request.split(b" ", 2)[:2]
                is_list = verb == b"GET" and (b"?prefix=" in target or b"&prefix=" in target or b"list-type" in target)
                with self.lock:
                    self.counts["LIST" if is_list else verb.decode()] += 1
                server.sendall(request)
                answer = read_message(answered, verb != b"HEAD")
                if not answer:
                    return
                client.sendall(answer)


def read_message(stream, may_have_body=True):
    """Returns the bytes of a request or an answer; nothing if the connection has ended."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if not may_have_body:
        return head
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        body = b""
        while True:
            line = stream.readline()
            size = int(line.split(b";")[0], 16)
            body += line + stream.read(size + 2)
            if size == 0:
                return head + body
    return head + stream.read(int(fields.get(b"content-length", b"0")))
