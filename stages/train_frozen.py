"""The frozen baseline: only view conditioning and head are trained, on kept features -> models/frozen."""

from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main() -> None:
    require_ok("frozen")
    from nightshift.engine import distributed as ranks  # torch: seconds, after the gate

    ranks.run("stages.train_frozen")


def work() -> None:
    from nightshift.training.trainer import trainer as training

    chosen = settings.read()
    training.train_arm(
        "frozen", chosen, start=chosen.preset.depth, adapt=lambda trunk: None, save=lambda adapted, folder: None
    )


if __name__ == "__main__":
    run(main)
