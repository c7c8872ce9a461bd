"""All ratios, one after the other -> a table on stdout and reports/benchmark.json; with CUDA the GPU's rows too.

`python -m benchmarks gpu` measures the GPU alone, in ten minutes -> reports/benchmark-gpu.json.
"""

import argparse
import sys


def main() -> None:
    """Measure everything; takes minutes."""
    if sys.argv[1:2] == ["gpu"]:
        from benchmarks import gpu

        gpu.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.parse_args()
    from benchmarks import arms, gpu, pipeline, probe
    from benchmarks.timing import line
    from nightshift.console.progress import say
    from nightshift.core.io import write_json
    from nightshift.engine.device import seed_everything

    seed_everything(0)
    rows = []
    for part in (pipeline, probe, arms, gpu):
        for row in part.rows():
            rows.append(row)
            say(line(row))
    write_json("reports/benchmark.json", rows)
    print("benchmarks: reports/benchmark.json")


if __name__ == "__main__":
    main()
