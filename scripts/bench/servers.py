"""Throw-away PostgreSQL servers, and pgBackRest beside them. None of them is reachable from another machine."""

import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from measure import size_of

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "512MB",
    "wal_level": "logical",
    "max_replication_slots": "10",
    "fsync": "on",
    "logging_collector": "off",
}


def find_bin():
    """Returns the folder of PostgreSQL 15's programs."""
    cache = Path(os.environ.get("BACKWHEN_PG_CACHE", "/var/cache/backwhen"))
    for folder in [cache / "postgresql-15/bin", Path("/usr/lib/postgresql/15/bin"), Path("/usr/pgsql-15/bin")]:
        if (folder / "postgres").exists() and (folder / "pgbench").exists():
            return folder
    raise SystemExit("bench: no PostgreSQL 15 with pgbench found: scripts/setup.sh")


def account():
    """Returns the user that servers run as, since PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    names = [entry.pw_name for entry in pwd.getpwall()]
    return "postgres" if "postgres" in names else "nobody"


def as_account(command):
    """Returns `command` changed to run as the servers' user."""
    if os.getuid() != 0:
        return command
    entry = pwd.getpwnam(account())
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", *command]


def own_folder(path):
    """Makes a folder that belongs to the servers' user."""
    path.mkdir(mode=0o700, parents=True)
    if os.getuid() == 0:
        shutil.chown(path, account(), grp.getgrgid(pwd.getpwnam(account()).pw_gid).gr_name)
    return path


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """One cluster in its own folder, which can be started, stopped, and deleted."""

    def __init__(self, folder, bin_folder, settings=None, environment=None):
        self.folder, self.bin, self.port = folder, bin_folder, free_port()
        self.data, self.sockets = folder / "data", folder / "s"
        self.settings = {**SETTINGS, **(settings or {})}
        self.environment = {**os.environ, **(environment or {}), "LC_ALL": "C"}
        self.process = None
        own_folder(folder)
        own_folder(self.sockets)
        folder.chmod(0o755)
        self.sockets.chmod(0o755)

    def init(self):
        command = [self.bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(as_account(command), check=True, stdout=subprocess.DEVNULL, env=self.environment, cwd="/")

    def start(self):
        command = [self.bin / "postgres", "-D", self.data, "-k", self.sockets, "-p", str(self.port)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        log = open(self.folder / "server.log", "ab")
        self.process = subprocess.Popen(as_account(command), stdout=log, stderr=log, env=self.environment, cwd="/")
        self.wait_until("SELECT NOT pg_is_in_recovery()")

    def wait_until(self, question, seconds=900):
        """Waits until the query `question` returns true, as after a restart or at the end of recovery."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if self.sql(question, quiet=True) == "t":
                    return
            except subprocess.CalledProcessError:
                pass
            time.sleep(0.05)
        raise SystemExit(f"bench: the server does not come up; see {self.folder}/server.log")

    def stop(self, how=signal.SIGINT):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(120)
        self.process = None

    def remove(self):
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def conninfo(self, database="bench", way="unix"):
        host = self.sockets if way == "unix" else "127.0.0.1"
        return f"host={host} port={self.port} user=postgres dbname={database}"

    def sql(self, statement, database="postgres", quiet=False, options=""):
        command = [self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, self.conninfo(database)]
        errors, environment = subprocess.DEVNULL if quiet else None, {**os.environ, "PGOPTIONS": options}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        return done.stdout.strip()

    def script(self, file, database="postgres"):
        """Runs the statements of a file in one session."""
        command = [self.bin / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", file, self.conninfo(database)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def fingerprint(self, database="bench"):
        """Returns a few numbers about the tables' rows, to check that every way of recovery gives the same rows."""
        tables = ["accounts", "branches", "history", "tellers"]
        one = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM pgbench_{} t"
        return [self.sql(one.format(table), database) for table in tables]


class PgBackRest:
    """A pgBackRest repository on the local disk, compressed with zstd."""

    def __init__(self, folder, server):
        self.server, self.repository = server, own_folder(folder / "repository")
        self.config = folder / "pgbackrest.conf"
        self.log = open(folder / "pgbackrest.log", "ab")
        logs, spool = own_folder(folder / "backrest-log"), own_folder(folder / "backrest-lock")
        self.config.write_text(
            f"[global]\nrepo1-path={self.repository}\ncompress-type=zst\nprocess-max=2\nstart-fast=y\n"
            f"log-path={logs}\nlock-path={spool}\nlog-level-console=warn\nlog-level-file=off\n"
            f"[bench]\npg1-path={server.data}\npg1-socket-path={server.sockets}\npg1-port={server.port}\n"
            "pg1-user=postgres\npg1-database=postgres\n"
        )

    @property
    def archive_command(self):
        return f"pgbackrest --config={self.config} --stanza=bench archive-push %p"

    def command(self, *arguments):
        return as_account(["pgbackrest", f"--config={self.config}", "--stanza=bench", *arguments])

    def run(self, *arguments):
        subprocess.run(self.command(*arguments), check=True, stdout=self.log, stderr=self.log, cwd="/")

    def archived(self):
        """Waits until all WAL written so far is archived; returns the bytes of the archived WAL."""
        last = self.server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        self.server.wait_until(f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver")
        return size_of(self.repository / "archive")

