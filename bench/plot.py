"""Throughput over the size of a blob, as a picture: `python bench/plot.py RESULTS.json PICTURE`.

Reads what run.py wrote (its groups put-sizes and get-sizes) and draws puts on the left, verified gets
on the right, a line for each system. PICTURE is .svg or .png; --filesystem says which of those in
the results, by default the first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import bed
from groups.sizes import GET, PUT

# Okabe and Ito's colours, which the colour-blind can tell apart; markers and labels say it too.
STYLES = {
    "fastcas": ("#000000", "o"),
    "umoci": ("#D55E00", "s"),
    "containerd": ("#0072B2", "^"),
    "oras-go": ("#E69F00", "v"),
    "ggcr": ("#56B4E9", "D"),
    "cacache": ("#009E73", "P"),
    "hashfs": ("#CC79A7", "X"),
    "dvc-data": ("#8C7A00", "<"),
    "naive": ("#777777", ">"),
}


def lines(records: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Bytes of a blob and bytes a second, by system."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, figures in {"fastcas": record["ours"], **record["peers"]}.items():
            found.setdefault(name, []).append((record["blob"], figures["median"] * 1e9))
    return found


def draw(axes: Axes, records: list[dict], title: str) -> None:
    series = lines(records)
    for name, points in series.items():
        colour, marker = STYLES[name]
        ours = name == "fastcas"
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5,
                  linewidth=2.6 if ours else 1.3, zorder=3 if ours else 2)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = [size for size, _ in series["fastcas"]]
    axes.set_xticks(sizes, [bed.binary_size(size) for size in sizes], rotation=45, ha="right")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11)
    label(axes, {name: points[-1] for name, points in series.items()})


def label(axes: Axes, ends: dict[str, tuple[int, float]]) -> None:
    """Each system's name at the end of its line, moved where another one is too near."""
    bottom, top = axes.get_ylim()
    gap = (top / bottom) ** 0.045
    names = sorted(ends, key=lambda name: ends[name][1])
    heights = [ends[name][1] for name in names]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] * gap)
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], top)
        top = heights[place] / gap
    for name, height in zip(names, heights, strict=True):
        (size, value), (colour, _) = ends[name], STYLES[name]
        axes.annotate(
            name, (size, value), xytext=(size * 1.9, height), va="center", annotation_clip=False,
            color=colour, weight="bold" if name == "fastcas" else "normal",
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "linewidth": 0.6},
        )  # fmt: skip


def rate(value: float) -> str:
    return f"{value / 1e9:g} GB/s" if value >= 1e9 else f"{value / 1e6:g} MB/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--filesystem")
    options = parser.parse_args()
    result = json.loads(options.results.read_text())
    records = [record for record in result["rows"] if record["name"] in {PUT, GET}]
    if not records:
        raise SystemExit(f"{options.results} has nothing of put-sizes and get-sizes")
    filesystem = options.filesystem or records[0]["filesystem"]
    records = [record for record in records if record["filesystem"] == filesystem]
    puts = [record for record in records if record["name"] == PUT]
    gets = [record for record in records if record["name"] == GET]
    durability = puts[0]["durability"]

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
    draw(left, puts, f"Put from files, durability {durability}")
    draw(right, gets, "Verified get")
    facts = result["environment"]
    figure.suptitle(
        f"Throughput over the size of a blob: {filesystem}, warm; {facts['cpu']}, "
        f"{facts['cpus']} CPUs, {' '.join(facts['cpu_features'])}; {facts['date'][:10]}",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
