"""The frozen baseline: only view conditioning and head are trained, on kept features -> models/frozen."""

from nightshift import settings, training
from nightshift.errors import run


def main() -> None:
    chosen = settings.read()
    training.train_arm(
        "frozen", chosen, start=chosen.preset.depth, adapt=lambda trunk: None, save=lambda adapted, folder: None
    )


if __name__ == "__main__":
    run(main)
