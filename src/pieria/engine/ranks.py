"""The ranks of a mesh as processes of one machine: the first plans, all compute.

The first rank sends each plan to the others over socket pairs; what the model exchanges goes
through torch.distributed. Run as `python -m pieria.engine.ranks FD`. A rank that dies ends the
engine.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pieria.engine.engine import RunnerLost
from pieria.engine.link import BlockingLink, Closed
from pieria.engine.orphan import end_with_parent
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
END_SECONDS = 2.0
"""How long after a failed step a rank that caused it may take to be gone."""

log = logging.getLogger("pieria.engine.ranks")


class Join(msgspec.Struct, frozen=True, tag=True):
    """The first message to a rank: who it is, and where the others are."""

    settings: dict[str, Any]
    rank: int
    size: int
    port: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """A rank's answer, twice: it is about to connect to the others, and it has loaded its part."""


class Lost(msgspec.Struct, frozen=True, tag=True):
    """A rank's last word: why it ends. refused: because of what it was asked to be.

    trace: where it failed; empty for one that died without a word.
    """

    reason: str
    trace: str = ""
    refused: bool = False


class Run(msgspec.Struct, frozen=True, tag=True):
    """Compute your part of this plan."""

    plan: StepPlan


@dataclass(frozen=True)
class Peer:
    """Another rank, as the first one holds it."""

    rank: int
    link: BlockingLink
    process: "subprocess.Popen[bytes]"

    def word(self) -> Done | Lost:
        """What it says next; waits for it."""
        try:
            said: Done | Lost = self.link.receive()
            return said
        except Closed:
            return Lost(f"exited with code {self.process.wait()}")


class RankedRunner:
    """The first rank's runner: sends each plan to the other ranks and runs its own part."""

    def __init__(self, own: Runner, peers: Sequence[Peer]) -> None:
        self.own = own
        self.peers = peers
        self._patience_seconds = 10.0

    def run(self, plan: StepPlan) -> StepResult:
        """RunnerLost on any error: the ranks may no longer agree on where they are."""
        try:
            for peer in self.peers:
                peer.link.send(Run(plan))
            return self.own.run(plan)
        except Exception as error:
            self._patience_seconds = 0.0
            raise _cause(self.peers, error) from error

    def check(self) -> None:
        """RunnerLost if a rank has ended since the last step."""
        lost = _ended(self.peers, 0.0)
        if lost:
            self._patience_seconds = 0.0
            raise _failure(lost)

    def close(self) -> None:
        """End the other ranks."""
        self.own.close()
        _end(self.peers, self._patience_seconds)


def _end(peers: Sequence[Peer], seconds: float) -> None:
    """Each rank ends by itself where it waits for a plan; elsewhere it is cut off."""
    for peer in peers:
        peer.link.close()
    for peer in peers:
        try:
            peer.process.wait(seconds)
        except subprocess.TimeoutExpired:
            peer.process.kill()
            peer.process.wait()
    if dist.is_initialized():
        dist.destroy_process_group()


def _ended(peers: Sequence[Peer], seconds: float) -> dict[int, Lost]:
    """Ranks that have ended, as soon as there is one, but after so many seconds in any case."""
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            selector.register(peer.link, selectors.EVENT_READ, peer)
        ended = [key.data for key, _ in selector.select(seconds)]
    words = {peer.rank: peer.word() for peer in ended}
    return {rank: word for rank, word in words.items() if isinstance(word, Lost)}


def _cause(peers: Sequence[Peer], error: Exception) -> Exception:
    """Why the ranks failed, if this is the error that the first one met.

    A rank that ends takes the others along: they meet its closed connections, and later.
    """
    return _failure(_ended(peers, END_SECONDS) or {0: _lost(error)})


def _failure(lost: Mapping[int, Lost]) -> Exception:
    """RunnerLost, or ValueError where the settings do not fit."""
    causes = {rank: word for rank, word in lost.items() if not word.trace} or lost
    for rank, word in causes.items():
        if word.trace and not word.refused:
            log.error("rank %d failed:\n%s", rank, word.trace)
    reasons = "; ".join(f"rank {rank}: {word.reason}" for rank, word in sorted(causes.items()))
    refused = all(word.refused for word in causes.values())
    return ValueError(reasons) if refused else RunnerLost(reasons)


def _lost(error: Exception, begun: bool = True) -> Lost:
    refused = isinstance(error, ValueError) and not begun
    reason = str(error) if refused else f"{type(error).__name__}: {error}"
    return Lost(reason, "".join(traceback.format_exception(error)), refused)


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
    peers = []
    for rank in range(1, size):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "pieria.engine.ranks", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        peers.append(Peer(rank, BlockingLink(ours, Done | Lost), process))
        with contextlib.suppress(Closed):  # one that is gone already is found out below
            peers[-1].link.send(Join(settings, rank, size, store.port))
    try:
        _wait(peers)
        try:
            prepared = place(settings, _connect(settings, store, 0))
        except ValueError:
            raise
        except Exception as error:
            raise _cause(peers, error) from error
        _wait(peers)
    except Exception:
        _end(peers, 0.0)
        raise
    runner = RankedRunner(prepared.runner, peers)
    return replace(prepared, runner=runner, check=runner.check)


def _wait(peers: Sequence[Peer]) -> None:
    """For each rank's answer."""
    for peer in peers:
        word = peer.word()
        if isinstance(word, Lost):
            raise _failure({peer.rank: word})


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
    sock = socket.socket(fileno=int(arguments[0]))
    end_with_parent(sock)
    link = BlockingLink(sock, Join | Run)
    join = link.receive()
    store = TCPStore("127.0.0.1", join.port, join.size, False, START_TIMEOUT)
    link.send(Done())
    loaded = False
    try:
        prepared = place(join.settings, _connect(join.settings, store, join.rank))
        loaded = True
        link.send(Done())
        ahead = iter(prepared.ahead)
        while True:
            while not link.waiting() and next(ahead, "nothing") is None:
                pass
            prepared.runner.run(link.receive().plan)
    except Closed:
        return  # the first rank is gone, or wants no more
    except Exception as error:
        with contextlib.suppress(Closed):
            link.send(_lost(error, loaded))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
