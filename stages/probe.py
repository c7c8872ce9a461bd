"""Why SAM 3's RoPE asserts, for the installed versions and the configured run -> reports/probe."""

from pathlib import Path

from nightshift import probing, settings
from nightshift.errors import run
from nightshift.files import read_json, write_csv, write_json

FOLDER = Path("reports/probe")


def main() -> None:
    chosen = settings.read()
    rows = probing.probe_cases(chosen)
    versions = read_json("reports/env.json")
    write_csv(FOLDER / "cases.csv", probing.COLUMNS, rows)
    verdict = {
        "torch": versions["torch"],
        "sam3": versions["sam3"],
        "hypotheses": probing.hypotheses(rows),
        "resolutions": probing.resolutions(rows),
    }
    write_json(FOLDER / "verdict.json", verdict)
    for arm, adapter in (("frozen", "none"), ("lora", "peft")):
        write_json(FOLDER / f"{arm}.json", probing.arm_verdict(rows, chosen, adapter))
    for name, answer in verdict["hypotheses"].items():
        print(f"{name}: {answer['verdict']}, {answer['because']}")
    print(f"{len(rows)} cases: {FOLDER.as_posix()}")


if __name__ == "__main__":
    run(main)
