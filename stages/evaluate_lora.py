"""The LoRA arm on the test cases -> reports/evaluation/lora."""

from nightshift import evaluation, leases, lora, settings
from nightshift.errors import run


def main() -> None:
    with leases.leased("evaluate_lora"):
        evaluation.evaluate_arm("lora", settings.read(), merge=lora.merge_adapters)


if __name__ == "__main__":
    run(main)
