"""All ratios, one after the other -> a table on stdout and reports/benchmark.json; with CUDA the GPU's rows too."""

import argparse


def main() -> None:
    """Measure everything; takes minutes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.parse_args()
    from benchmarks import arms, gpu, pipeline, probe
    from nightshift.console.progress import say
    from nightshift.core.io import write_json
    from nightshift.engine.device import seed_everything

    seed_everything(0)
    rows = []
    for part in (pipeline, probe, arms, gpu):
        for row in part.rows():
            rows.append(row)
            say(f"{row['name']:36} {row['value']:10.4f} {row['unit']:6} {row['device']}, torch {row['torch']}")
    write_json("reports/benchmark.json", rows)
    print("benchmarks: reports/benchmark.json")


if __name__ == "__main__":
    main()
