"""Two machines train one model: two network namespaces stand for them, joined by a pair of virtual network devices."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ranks
from mpirun import MPIRUN, TEXT, TINY, Job, folder_with_text, outcome

RUN = [*TINY, "--dataset=stars.txt", "--gradient_accumulation_steps=6", "--out_dir=run"]
GRADIENTS = 20 * 3808 * 4                       # bytes: steps, parameters, float32
# Starts a command on a host as `ssh ADDRESS COMMAND` does.
SSH = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
host=$1; shift
exec ip netns exec NAME-${host##*.} unshare --uts bash -c "hostname host-${host##*.}; $*"
"""


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Hosts:
    """Two hosts, 10.77.0.1 and 10.77.0.2. name: of their namespaces, followed by -1 and -2."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder

    def __enter__(self):
        try:
            for n in "12":
                ip("netns", "add", f"{self.name}-{n}")
            ip("link", "add", "wire", "netns", f"{self.name}-1", "type", "veth", "peer", "name", "wire", "netns",
               f"{self.name}-2")
            for n in "12":
                self.on(n, "addr", "add", f"10.77.0.{n}/24", "dev", "wire")
                self.on(n, "link", "set", "lo", "up")
                self.on(n, "link", "set", "wire", "up")
            subprocess.run(["unshare", "--uts", "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if not isinstance(error, OSError):
                self.__exit__()
            pytest.skip(f"network namespaces do not work here: {getattr(error, 'stderr', None) or error}")
        ssh = self.folder / "ssh"
        ssh.write_text(SSH.replace("NAME", self.name), "utf-8")
        ssh.chmod(0o755)
        return self

    def __exit__(self, *_):
        for n in "12":
            subprocess.run(["ip", "netns", "del", f"{self.name}-{n}"], capture_output=True)

    def on(self, n, *arguments):
        return ip("-n", f"{self.name}-{n}", *arguments)

    def wire(self, n):
        return json.loads(self.on(n, "-json", "-statistics", "link", "show", "wire"))[0]

    def sent_bytes(self, n):
        return self.wire(n)["stats64"]["tx"]["bytes"]

    def start(self, n, *tasks):
        """n processes, of which two are on the first host if there are three, do these tasks of ranks.py. Without
        UCX_TLS, they would use their common memory, and send nothing."""
        while any(self.wire(host)["operstate"] != "UP" for host in "12"):       # until then, UCX does not use it
            time.sleep(0.02)
        return Job(n, sys.executable, ranks.__file__, json.dumps(tasks), cwd=self.folder,
                   env={"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "wire"}, mpirun=[
                       "ip", "netns", "exec", f"{self.name}-1", MPIRUN, "-launcher", "rsh", "-launcher-exec",
                       str(self.folder / "ssh"), "-hosts", "10.77.0.1,10.77.0.2", "-ppn", str(n // 2 + n % 2)])


@pytest.fixture
def hosts(tmp_path):
    (tmp_path / "stars.txt").write_text(TEXT, "utf-8")
    if not MPIRUN or "HYDRA" not in subprocess.run([MPIRUN, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("no mpirun of MPICH is installed")
    with Hosts(f"minigrad-{os.getpid()}", tmp_path) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process writes."""
    path = tmp_path_factory.mktemp("one")
    with folder_with_text(path):
        ranks.run(RUN)
    return outcome(path / "run")


def test_two_machines_have_the_bits_of_one_process_and_their_gradients_cross_the_network(hosts, one):
    before = [hosts.sent_bytes(n) for n in "12"]
    status, out, err = hosts.start(3, ["run", {"options": RUN}], ["share", {"limit": 1000, "bucket": 1000}]).end()
    assert status == 0, out + err
    assert "3 processes on 2 machines" in out
    assert all(hosts.sent_bytes(n) - sent > GRADIENTS for n, sent in zip("12", before))
    assert outcome(hosts.folder / "run") == one
    for rank, changes in enumerate([1, 1, 0]):              # ranks 0 and 1 share the memory that rank 0 writes to
        with np.load(hosts.folder / f"share-1000-{rank}.npz") as saved:
            array, later = saved.values()
        assert np.array_equal(array, ranks.ARRAY) and (later != array).sum() == changes


def test_when_the_network_is_cut_every_process_ends_and_says_so_and_the_run_resumes(hosts, one, monkeypatch):
    job = hosts.start(2, ["run", {"options": RUN, "cut": 12}])
    job.wait_for(hosts.folder / "at-the-step")
    processes = [pid for rank, pids in job.pids().items() if rank is not None for pid in pids]
    assert len(processes) == 2
    hosts.on("1", "link", "set", "wire", "down")
    (hosts.folder / "cut").touch()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < end, job.end(1)
        time.sleep(0.1)
    for pid in job.pids().get(None, []):        # mpirun itself waits for the other machine
        os.kill(pid, signal.SIGKILL)
    _, out, err = job.end()
    assert "waited 3 s for the others" in err
    monkeypatch.chdir(hosts.folder)
    ranks.run(["--init_from=resume", "--out_dir=run"])
    assert outcome(hosts.folder / "run") == one
