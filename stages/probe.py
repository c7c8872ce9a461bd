"""Why SAM 3's RoPE asserts, for the installed versions, whatever the arms are -> reports/probe."""

from pathlib import Path

from nightshift.backbone.full_size import FULL_SIZE
from nightshift.backbone.rope import SAM3
from nightshift.config import resolved
from nightshift.config.sections import Probe
from nightshift.console.errors import run
from nightshift.core.io import write_text
from nightshift.core.tables import write_table
from nightshift.probe.cases import all_cases
from nightshift.probe.heatmap import heatmap
from nightshift.probe.summary import frame_of, report, sentences, verdict_of
from nightshift.probe.text import table

FOLDER = Path("reports/probe")
FRAME = 512  # pixels: the usual side of an angiogram


def main() -> None:
    settings = resolved.read("probe", Probe)
    cases = all_cases(settings.resolutions, settings.ddp)
    frame = frame_of(cases)
    verdict = verdict_of(frame, FULL_SIZE, FRAME, resolved.versions("torch", "sam3"))
    write_table(FOLDER / "cases.csv", frame)
    verdict.write(FOLDER / "verdict.json")
    write_text(FOLDER / "report.md", report(verdict, frame))
    write_text(FOLDER / "heatmap.svg", heatmap(frame))
    print(table([case for case in cases if case.adapter == "none" and case.encoder == "sam3"]))
    print("\n".join(sentences(verdict, frame)))
    print(f"{len(cases)} cases: {FOLDER.as_posix()}")
    print(f"tested: {SAM3}")


if __name__ == "__main__":
    run(main)
