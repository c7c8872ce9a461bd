"""The frozen arm against the LoRA arm -> reports/comparison: metrics.json, report.html, report.md and plots/."""

from pathlib import Path

from nightshift import figures, report, settings, statistics
from nightshift.errors import run
from nightshift.files import write_json, write_text

FOLDER = Path("reports/comparison")


def main() -> None:
    chosen = settings.read()
    arms = {name: report.read_arm(name) for name in report.ARMS}
    frozen, lora = (arm.cases for arm in arms.values())
    results = {name: statistics.compare(frozen, lora, name) for name in statistics.MEASURES}
    panels = report.panels(arms)
    contents = report.contents(chosen, arms, results, panels)
    summary = {"dice": results["dice"], "verdict": statistics.verdict(results["dice"]), **statistics.size(frozen)}
    write_json(FOLDER / "metrics.json", summary)
    figures.write_png(FOLDER / "plots/curves.png", report.curves(arms, list(figures.CURVES)))
    figures.write_png(FOLDER / "plots/overlays.png", figures.overlays(panels))
    for name in ("report.html", "report.md"):
        write_text(FOLDER / name, report.render(f"{name}.j2", contents))
    print(f"{contents['head']}: {contents['rest']}")
    print(f"report: {(FOLDER / 'report.html').as_posix()}")


if __name__ == "__main__":
    run(main)
