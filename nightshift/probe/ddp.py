"""DDP over gloo, in processes of its own: `python -m nightshift.probe.ddp RANK PROCESSES FOLDER`."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import distributed

from nightshift.backbone import encoder
from nightshift.backbone.full_size import Size
from nightshift.backbone.rope import make_real
from nightshift.probe.wrappers import adapt

SMALL = Size(
    img_size=168, pretrain_img_size=56, embed_dim=32, depth=2, num_heads=1, window_size=4, global_blocks=(1,),
    d_model=16,
)  # fmt: skip
TABLES = ("as_shipped", "repaired")


@contextmanager
def ddp_over_gloo(processes: int = 2) -> Iterator[Callable[[], dict[str, str]]]:
    """Start the processes, and yield a function that waits for them: the first error, or none, for each of TABLES.

    They are commands, as children of `torch.multiprocessing` would first import all that this process has.
    Raises RuntimeError with the last line of a process that ends otherwise than by such an error.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started = {}
        for rank in range(processes):
            said = stack.enter_context((Path(folder) / f"stderr-{rank}").open("w+", encoding="utf-8"))
            command = [sys.executable, "-m", __spec__.name, str(rank), str(processes), folder]
            started[stack.enter_context(subprocess.Popen(command, stderr=said))] = said

        def errors() -> dict[str, str]:
            running = True
            while running:
                running = any([process.poll() is None for process in started])
                for process, said in started.items():
                    if process.returncode:  # the others would wait half an hour for it
                        said.seek(0)
                        raise RuntimeError(f"DDP over gloo: {said.read().strip().splitlines()[-1:]}")
                time.sleep(0.02)
            return {
                table: "".join(path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob(f"{table}-*")))
                for table in TABLES
            }

        try:
            yield errors
        finally:
            for process in started:
                process.kill()  # nothing where it has ended


def main(rank: int, processes: int, folder: Path) -> None:
    """A forward and backward with each of TABLES; errors go to files in `folder`."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), processes)  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    for table in TABLES:
        trunk = encoder.build(SMALL).trunk
        if table == "repaired":
            make_real(trunk)
        try:
            model = torch.nn.parallel.DistributedDataParallel(adapt(trunk, "lora_by_hand"))
            model(torch.zeros(1, 3, SMALL.img_size, SMALL.img_size))[-1].sum().backward()
        except (RuntimeError, AssertionError) as error:
            message = f"{type(error).__name__}: {error}\n"
            (folder / f"{table}-{rank}").write_text(message, encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
