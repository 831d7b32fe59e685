"""Training in several processes that torchrun starts, with the weights that one process would give.

Each process draws the same global batch and the same augmentation, and computes its share of the tiles. What a loss
sums over the batch is summed over the processes (``sum_over_processes``), and what needs all tiles gathers them
(``gather``). Both multiply the gradient by the number of processes, because DistributedDataParallel averages the
gradients that it should add.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from wsplf_cli.errors import ConfigError, ProcessError, WsplfError
from wsplf_cli.networks.device import pick_device

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

#: Reading a cohort can take one process much longer than another.
_PATIENCE = timedelta(hours=2)


def process_count() -> int:
    """The number of processes that train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def together(device: str) -> Iterator[None]:
    """Train together with the other processes while the block runs; without torchrun, there are none.

    All processes but the main one leave the program at the end of the block. When one fails, all end, and only one of
    them raises the error to be shown.

    Args:
        device: As ``pick_device`` takes it; each process gets a GPU of its own.

    Raises:
        ConfigError: There is no such device, or there are more processes than GPUs on this machine.
        ProcessError: The first error of all processes, in the process that had it or was the first to notice.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    store = _join(pick_device(device))
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except WsplfError as error:
        raise _first(store, ProcessError(f"{error.message}{_name()}", hint=error.hint)) from error
    except (RuntimeError, dist.DistError) as error:
        if not _is_lost_connection(error):
            raise
        lost = ProcessError("another process of the training has ended, so all end", hint="run the command again")
        raise _first(store, lost) from error
    except KeyboardInterrupt:
        if is_main():
            raise
        raise SystemExit(130) from None
    else:
        only_main_goes_on()
    finally:
        signal.signal(signal.SIGTERM, before)


def only_main_goes_on() -> None:
    """The training is over: the main process goes on alone, the others leave the program."""
    if dist.is_initialized():
        main = is_main()
        dist.destroy_process_group()
        if not main:
            raise SystemExit(0)


def require_single(reason: str) -> None:
    """Refuse to go on in several processes, for a reason.

    Raises:
        ConfigError: There are several.
    """
    if process_count() > 1:
        raise ConfigError(f"torchrun has no use here: {reason}", hint="run the command without torchrun")


def parallel(network: nn.Module, *, tell: Callable[[str], None]) -> nn.Module:
    """The network as all processes train it together; itself where there is only one.

    Batch statistics are those of the global batch on GPUs. On CPUs they are those of each process's share.

    Args:
        network: On its device; its batch norms are changed in place on GPUs.
        tell: Is told what differs from one process.
    """
    if process_count() == 1:
        return network
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if any(parameter.requires_grad for norm in norms for parameter in norm.parameters()):
        if next(network.parameters()).is_cuda:
            convert_sync_batchnorm(network)
        else:
            tell("warning: on CPUs each process normalises by the statistics of its own share of a batch")
    return DistributedDataParallel(network, static_graph=True)


def share_of(count: int) -> slice:
    """Which of ``count`` tiles of the global batch this process computes.

    Raises:
        ConfigError: There are more processes than tiles.
    """
    processes = process_count()
    if count < processes:
        raise ConfigError(f"{processes} processes for a batch of {count} tiles", hint=f"--nproc-per-node {count}")
    rank = dist.get_rank() if dist.is_initialized() else 0
    return slice(rank * count // processes, (rank + 1) * count // processes)


def sum_over_processes(part: Tensor) -> Tensor:
    """The sum of a tensor over the processes."""
    if process_count() == 1:
        return part
    total = part.detach().clone()
    dist.all_reduce(total)
    return total + process_count() * (part - part.detach())


def gather(part: Tensor, count: int) -> Tensor:
    """The rows of all processes in order: ``part`` has those of ``share_of(count)``. All parts have the same dtype."""
    processes = process_count()
    if processes == 1:
        return part
    most = -(-count // processes)
    padded = part.new_zeros((most, *part.shape[1:]))
    padded[: len(part)] = part.detach()
    parts = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(parts, padded)
    sizes = [(rank + 1) * count // processes - rank * count // processes for rank in range(processes)]
    rows = [of_rank[:size] for of_rank, size in zip(parts, sizes, strict=True)]
    rows[dist.get_rank()] = part.detach() + processes * (part - part.detach())
    return torch.cat(rows)


def _join(device: torch.device) -> "Store":
    """Meet the other processes; gives the store that all of them reach."""
    from torch.distributed.rendezvous import rendezvous

    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local + 1} on this machine has no GPU: there are {torch.cuda.device_count()}",
                hint=f"--nproc-per-node {torch.cuda.device_count()}",
            )
        torch.cuda.set_device(local)
    store: Store
    store, rank, processes = next(rendezvous("env://", timeout=_PATIENCE))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=_PATIENCE)
    return store


def _first(store: "Store", error: ProcessError) -> BaseException:
    """The error where this process is the first to have one, else an exit without a word."""
    try:
        first = store.add("wsplf/errors", 1) == 1
    except RuntimeError:  # the store went with the process that held it
        first = True
    return error if first else SystemExit(1)


def _name() -> str:
    return "" if is_main() else f" (process {dist.get_rank() + 1} of {process_count()}, on {socket.gethostname()})"


def _is_lost_connection(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "onnection"))


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(1)
