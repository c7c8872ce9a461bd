"""The frozen baseline: only view conditioning and head are trained, on kept features -> models/frozen."""

from nightshift import settings
from nightshift.errors import run
from nightshift.gate import require_ok


def main() -> None:
    require_ok("frozen")
    from nightshift import ranks  # torch: seconds, after the gate

    ranks.run("stages.train_frozen")


def work() -> None:
    from nightshift import training

    chosen = settings.read()
    training.train_arm(
        "frozen", chosen, start=chosen.preset.depth, adapt=lambda trunk: None, save=lambda adapted, folder: None
    )


if __name__ == "__main__":
    run(main)
