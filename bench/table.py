"""The measured as Markdown, and its place in README.md."""

from __future__ import annotations

import bed
from peers.program import STORES

README = bed.HERE / "README.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def _figure(record: dict, figures: dict | None) -> str:
    if figures is None:
        return "-"
    digits = 2 if record["unit"] == "GB/s" or figures["median"] < 10 else 0
    low, middle, high = (f"{figures[key]:.{digits}f}" for key in ("least", "median", "most"))
    return f"{middle} ({low}-{high})"


def _target(record: dict) -> str:
    words = []
    for column, target in record["targets"].items():
        against = record["bound_name"] if column == "bound" else column
        verdict = "met" if target["met"] else "**missed**"
        words.append(f"≥ {target['least']:g} x {against}: {verdict}")
    return "; ".join(words) or "-"


def _row(record: dict, peers: list[str]) -> list[str]:
    ratios = {column: f"{value:.2f}" for column, value in record["ratios"].items()}
    size = record["blob"] or record["size"]
    notes = "".join(f", {key}: {value}" for key, value in record["notes"].items() if value)
    bound = _figure(record, record["bound"])
    if record["bound_name"]:
        bound += f" {record['bound_name']}"
    return [
        record["name"] + (f" {bed.binary_size(size)}" if size else "") + notes,
        record["durability"] + (", cold" if record["cache"] == "cold" else ""),
        record["unit"],
        _figure(record, record["ours"]),
        *(_figure(record, record["peers"].get(peer)) for peer in peers),
        bound,
        ratios.get("umoci", "-"),
        f"{ratios['best']} {record['best']}" if record["best"] else "-",
        ratios.get("bound", "-"),
        _target(record),
    ]


def markdown(result: dict) -> str:
    """One table for each filesystem, and one of whole processes."""
    facts = result["environment"]
    lines = [
        f"{facts['date']}; {facts['cpu']}, {facts['cpus']} CPUs, "
        f"{' '.join(facts['cpu_features']) or 'no SHA extension'}; Linux {facts['kernel']}; Python "
        f"{facts['python']}; fastcas {facts['fastcas']}, {facts['backend']}; "
        f"{'; '.join(facts['peers']) or 'no peers'}. Median (least-most) of up to "
        f"{result['rounds']} rounds.",
    ]
    for filesystem in dict.fromkeys(record["filesystem"] for record in result["rows"]):
        records = [record for record in result["rows"] if record["filesystem"] == filesystem]
        met = dict.fromkeys(peer for record in records for peer in record["peers"])
        peers = [
            *(peer for peer in STORES if peer in met),
            *(peer for peer in met if peer not in STORES),
        ]
        header = [filesystem, "durability", "unit", "fastcas", *peers, "bound", "x umoci",
                  "x best peer", "x bound", "target"]  # fmt: skip
        rows = [header, ["---"] * len(header), *(_row(record, peers) for record in records)]
        lines += ["", *("| " + " | ".join(cells) + " |" for cells in rows)]
    if result["processes"]:
        lines += ["", "| above a bare interpreter | measured | limit | |", "|---|---|---|---|"]
        for record in result["processes"]:
            verdict = "met" if record["value"] <= record["limit"] else "**missed**"
            unit = record["unit"]
            lines.append(
                f"| {record['name']} | {record['value']:.1f} {unit} | {record['limit']:g} {unit} "
                f"| {verdict} |"
            )
    return "\n".join(lines) + "\n"


def rewrite_readme(table: str) -> None:
    """Replaces what stands between the markers of README.md."""
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README} has lost its markers")
    README.write_text(f"{before}{begin}\n{table}{end}{after}")
