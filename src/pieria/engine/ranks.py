"""The ranks of a mesh as processes of one machine: the first plans, all compute.

The first rank sends each plan to the others over socket pairs; what the model exchanges goes
through torch.distributed. Run as `python -m pieria.engine.ranks FD`. A rank that dies ends the
engine.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pieria.engine.engine import RunnerLost
from pieria.engine.link import BlockingLink, Closed
from pieria.engine.place import place
from pieria.engine.plan import Runner, StepPlan, StepResult
from pieria.engine.process import Prepared
from pieria.engine.runner_config import RunnerConfig
from pieria.hardware import devices
from pieria.models.checkpoint import open_checkpoint
from pieria.models.loader import build
from pieria.parallel.mesh import Mesh

START_TIMEOUT = timedelta(minutes=5)
STEP_TIMEOUT = timedelta(minutes=10)


class Join(msgspec.Struct, frozen=True, tag=True):
    """The first message to a rank: who it is, and where the others are."""

    settings: dict[str, Any]
    rank: int
    size: int
    port: int


class Joined(msgspec.Struct, frozen=True, tag=True):
    """A rank's answer: it is about to connect to the others."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """Compute your part of this plan."""

    plan: StepPlan


class RankedRunner:
    """The first rank's runner: sends each plan to the other ranks and runs its own part."""

    def __init__(
        self,
        own: Runner,
        links: Sequence[BlockingLink],
        processes: Sequence["subprocess.Popen[bytes]"],
    ) -> None:
        self.own = own
        self.links = links
        self.processes = processes

    def run(self, plan: StepPlan) -> StepResult:
        """RunnerLost on any error: the ranks may no longer agree on where they are."""
        try:
            for link in self.links:
                link.send(Run(plan))
            return self.own.run(plan)
        except Exception as error:
            codes = {i + 1: code for i, p in enumerate(self.processes) if (code := p.poll())}
            dead = ", ".join(f"rank {rank} exited with code {code}" for rank, code in codes.items())
            raise RunnerLost(f"a step of several ranks failed: {dead or error}") from error

    def close(self) -> None:
        """End the other ranks."""
        self.own.close()
        for link in self.links:
            link.close()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


def prepare(settings: dict[str, Any]) -> Prepared:
    """The runner factory of the engine process: one rank, or as many as the parallel sizes make.

    settings: `runner` and `scheduler`, the two Configs. ValueError for what cannot be done.
    """
    mesh = _mesh(settings, 0)
    return place(settings, mesh) if mesh.size == 1 else _start(settings, mesh)


def _mesh(settings: dict[str, Any], rank: int) -> Mesh:
    config = msgspec.convert(settings["runner"], RunnerConfig)
    return Mesh(
        pp=config.pipeline_parallel_size,
        ep=config.expert_parallel_size,
        tp=config.tensor_parallel_size,
        rank=rank,
    )


def _start(settings: dict[str, Any], mesh: Mesh) -> Prepared:
    # A cut that does not divide is refused before there are any processes.
    model = msgspec.convert(settings["runner"], RunnerConfig).model
    build(open_checkpoint(Path(model)), mesh, torch.float32)
    size = mesh.size
    store = loopback_store(size)
    links, processes = [], []
    for rank in range(1, size):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "pieria.engine.ranks", str(theirs.fileno())]
        processes.append(
            subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        )
        theirs.close()
        links.append(BlockingLink(ours, Joined))
        with contextlib.suppress(Closed):  # one that is gone already is found out below
            links[-1].send(Join(settings, rank, size, store.port))
    try:
        for rank, (link, process) in enumerate(zip(links, processes, strict=True), start=1):
            try:
                link.receive()
            except Closed as error:
                code = process.wait()
                raise RunnerLost(f"rank {rank} exited with code {code} at its start") from error
        prepared = place(settings, _connect(settings, store, 0))
    except Exception:
        for process in processes:
            process.kill()
            process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    return replace(prepared, runner=RankedRunner(prepared.runner, links, processes))


def loopback_store(size: int) -> TCPStore:
    """Where `size` ranks find each other, which only this machine can reach."""
    # Given a port alone, the store would listen on every address of the machine, to anyone.
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        return TCPStore(
            "127.0.0.1",
            port,
            size,
            True,
            START_TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )


def _connect(settings: dict[str, Any], store: TCPStore, rank: int) -> Mesh:
    device = devices.find(msgspec.convert(settings["runner"], RunnerConfig).device)
    mesh = _mesh(settings, rank)
    # gloo would pick the interface of the host's name, which other machines can reach.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        device.distributed, store=store, rank=rank, world_size=mesh.size, timeout=STEP_TIMEOUT
    )
    return mesh.connect()


def main(arguments: list[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    link = BlockingLink(socket.socket(fileno=int(arguments[0])), Join | Run)
    join = link.receive()
    store = TCPStore("127.0.0.1", join.port, join.size, False, START_TIMEOUT)
    link.send(Joined())
    runner = place(join.settings, _connect(join.settings, store, join.rank)).runner
    with contextlib.suppress(Closed):
        while True:
            runner.run(link.receive().plan)


if __name__ == "__main__":
    main(sys.argv[1:])
