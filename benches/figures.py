#!/usr/bin/env python3
"""Writes the README's figures from what criterion measured.

    cargo bench --bench check && cargo bench --bench revoke && cargo bench --bench open
    python3 benches/figures.py

Medians and their 95% confidence intervals go into benches/results.csv, and from there into the README.
"""

import csv
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results.csv"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: written by benches/figures.py -->", "<!-- end of figures -->"


def measured():
    for path in (ROOT / "target" / "criterion").glob("**/new/benchmark.json"):
        name = json.loads(path.read_text())["full_id"]
        median = json.loads((path.parent / "estimates.json").read_text())["median"]
        interval = median["confidence_interval"]
        yield name, median["point_estimate"], interval["lower_bound"], interval["upper_bound"]


def table(results):
    def ns(name):
        return results[name]

    lines = ["| a check, in ns | 1,000 entries | 100,000 | 1,000,000 |", "|---|---|---|---|"]
    for label, case in [
        ("1 subject named, not revoked", "absent/1"),
        ("2 subjects", "absent/2"),
        ("4 subjects", "absent/4"),
        ("1 subject, revoked", "present/1"),
    ]:
        cells = []
        for size in (1_000, 100_000, 1_000_000):
            ours = ns(f"check/{size}/rescind/{case}")
            theirs = ns(f"check/{size}/DashMap<String, Instant>/{case}")
            cells.append(f"{ours:.0f} (map {theirs:.0f}, {theirs / ours:.2f}x)")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| a durable revocation | per commit | revocations per second |", "|---|---|---|"]
    for size in (1, 64, 1024):
        commit = ns(f"revoke/sync/{size}")
        lines.append(f"| {size} in a commit | {commit / 1000:.0f} us | {size * 1e9 / commit:,.0f} |")
    lines += ["", "| opening a store of 100,000 | ms | entries per second |", "|---|---|---|"]
    for source in ("log", "snapshot"):
        opened = ns(f"open/{source}/100000")
        lines.append(f"| from a {source} | {opened / 1e6:.0f} | {1e5 * 1e9 / opened:,.0f} |")
    return lines


def main():
    rows = sorted(measured())
    if rows:
        with RESULTS.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["name", "median_ns", "low_ns", "high_ns"])
            out.writerows((name, *(f"{figure:.1f}" for figure in figures)) for name, *figures in rows)
    with RESULTS.open() as file:
        results = {row["name"]: float(row["median_ns"]) for row in csv.DictReader(file)}
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    README.write_text("\n".join([before + BEGIN, "", *table(results), "", END + after]))


main()
