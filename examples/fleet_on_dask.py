"""Optimise a folder of models on a cluster: dask.distributed gives bnfold an Executor.

    pip install distributed
    python examples/fleet_on_dask.py MODELS OUT [tcp://scheduler:8786]

Without a scheduler it starts a cluster on this machine. All workers must see the same files. Any
other `concurrent.futures.Executor` does as well.
"""

from __future__ import annotations

import sys

from distributed import Client, LocalCluster

import bnfold
from bnfold.pipeline.batch import worst_exit_code


def optimise(models: str, out_dir: str, client: Client) -> tuple[bnfold.ModelOutcome, ...]:
    """All models below a folder, one at a time for each thread of each worker."""
    with client.get_executor() as executor:
        return bnfold.optimize_many(
            [models], out_dir=out_dir, recursive=True, executor=executor, on_done=tell
        )


def tell(done: bnfold.ModelOutcome) -> None:
    """One line for each model, as it is done."""
    if done.error is not None:
        print(f"{done.source}: {done.error.message}")
    elif done.result is not None:
        print(f"{done.source}: {len(done.result.folded)} folded, {len(done.result.kept)} kept")


def main() -> int:
    """The exit code of the worst_exit_code model."""
    models, out_dir, *scheduler = sys.argv[1:]
    if scheduler:
        with Client(scheduler[0]) as client:
            return worst_exit_code(one.exit_code for one in optimise(models, out_dir, client))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        return worst_exit_code(one.exit_code for one in optimise(models, out_dir, client))


if __name__ == "__main__":
    sys.exit(main())
