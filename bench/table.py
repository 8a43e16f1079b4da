"""The measured as Markdown, and its place in README.md."""

from __future__ import annotations

import bed

README = bed.HERE / "README.md"
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def _figure(record: dict, column: str) -> str:
    figures = record.get(column)
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


def markdown(result: dict) -> str:
    facts = result["environment"]
    lines = [
        f"{facts['date']}; {facts['cpu']}, {facts['cpus']} CPUs, "
        f"{' '.join(facts['cpu_features']) or 'no SHA extension'}; Linux {facts['kernel']}; Python "
        f"{facts['python']}; fastcas {facts['fastcas']}, {facts['backend']}; {facts['umoci']}. "
        f"{result['rounds']} rounds; median (least-most).",
        "",
        "| benchmark | filesystem | durability | unit | fastcas | umoci | naive Python | bound "
        "| x umoci | x naive | x bound | target |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in result["rows"]:
        ratios = record["ratios"]
        size = f" {bed.binary_size(record['size'])}" if record["size"] else ""
        notes = "".join(f", {key}: {value}" for key, value in record["notes"].items() if value)
        bound = _figure(record, "bound")
        if record["bound_name"]:
            bound += f" {record['bound_name']}"
        cells = [
            record["name"] + size + notes,
            record["filesystem"],
            record["durability"],
            record["unit"],
            _figure(record, "ours"),
            _figure(record, "umoci"),
            _figure(record, "naive"),
            bound,
            *(f"{ratios[c]:.2f}" if c in ratios else "-" for c in ("umoci", "naive", "bound")),
            _target(record),
        ]
        lines.append("| " + " | ".join(cells) + " |")
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
