"""The LoRA arm: adapters in the trunk, view conditioning and head are trained -> models/lora."""

from nightshift.config import params as settings
from nightshift.console.errors import run
from nightshift.jobs.preconditions import require_ok


def main() -> None:
    require_ok("lora")
    from nightshift.engine import distributed as ranks  # torch: seconds, after the gate

    ranks.run("stages.train_lora")


def work() -> None:
    from nightshift.model.segmentation import lora
    from nightshift.training.trainer import trainer as training

    chosen = settings.read()
    training.train_arm(
        "lora",
        chosen,
        start=lora.prefix_end(chosen.lora, chosen.preset.depth),
        adapt=lambda trunk: lora.add_adapters(trunk, chosen.lora),
        save=lora.save_adapters,
    )


if __name__ == "__main__":
    run(main)
