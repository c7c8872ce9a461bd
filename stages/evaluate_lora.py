"""The LoRA arm on the test cases -> reports/evaluation/lora."""

from nightshift.evaluation.evaluate import evaluate as evaluation
from nightshift.jobs import gpu_lock as leases
from nightshift.model.segmentation import lora
from nightshift.config import params as settings
from nightshift.console.errors import run


def main() -> None:
    with leases.leased("evaluate_lora"):
        evaluation.evaluate_arm("lora", settings.read(), merge=lora.merge_adapters)


if __name__ == "__main__":
    run(main)
