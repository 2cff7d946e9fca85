"""A model cut over processes that talk through gloo; imports no transformers, so that these start
soon.
"""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from pieria.models.checkpoint import open_checkpoint
from pieria.models.context import Packed
from pieria.models.loader import build, load
from pieria.parallel.mesh import Mesh


def check_logits(wanted: dict[Path, Tensor], tokens: Tensor, store: Path, tp: int, ep: int) -> None:
    """Every rank's logits of one sequence, in float64, against those `wanted` of each model.

    store: a file that is not there yet.
    """
    multiprocessing.spawn(_rank, (wanted, tokens, str(store), tp, ep), nprocs=tp * ep)


def _rank(
    rank: int, wanted: dict[Path, Tensor], tokens: Tensor, store: str, tp: int, ep: int
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=tp * ep)
    mesh = Mesh(tp=tp, ep=ep, rank=rank).connect()
    for folder, logits in wanted.items():
        checkpoint = open_checkpoint(folder)
        model = build(checkpoint, mesh, torch.float64)
        load(checkpoint, model, "cpu")
        with torch.no_grad():
            found = model.logits(model(tokens, Packed.of((len(tokens),))))
        torch.testing.assert_close(found, logits, atol=1e-10, rtol=1e-10)
    dist.destroy_process_group()
