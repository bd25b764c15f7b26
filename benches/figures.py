#!/usr/bin/env python3
"""Writes the README's figures, and draws benches/check.svg, from what was measured.

    RIVALS_RESULTS=benches/results.txt cargo run --release --manifest-path benches/rivals/Cargo.toml
    cargo bench --bench revoke && cargo bench --bench open
    cargo bench --features examples,redis --bench service | grep ^service-overhead > benches/service.txt
    python3 benches/figures.py

benches/results.txt holds the lines of the first command, benches/service.txt those of the third. The medians of criterion and their 95% confidence intervals go
into benches/results.csv. Figures that were not measured are left out.
"""

import csv
import json
import math
import pathlib
import re
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCHES = ROOT / "benches"
RIVALS = BENCHES / "results.txt"
CRITERION = BENCHES / "results.csv"
SERVICE = BENCHES / "service.txt"
CHART = BENCHES / "check.svg"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: written by benches/figures.py -->", "<!-- end of figures -->"

OURS, BY_HAND = "rescind", "DashMap<String,Instant>"
LABELS = {
    BY_HAND: "DashMap<String, Instant>",
    "DashMap<u128,u64>": "DashMap<u128, u64> on XXH3-128",
    "RwLock<HashMap<String,Instant>>": "RwLock<HashMap<String, Instant>>",
    "moka": "moka, a TTL per entry",
    "Redis": "Redis EXISTS, unix socket",
}
QUESTIONS = [
    ("1 subject named, not revoked, against 1 lookup", "negative_1"),
    ("2 subjects, against 2 lookups", "negative_2"),
    ("4 subjects, against 4 lookups", "negative_4"),
    ("4 subjects, `iat`, `auth_time` and `exp`, against **one** lookup", "verdict_4_vs_one_lookup"),
    ("1 subject, revoked", "positive_1"),
    ("1 subject, with the time to build the credential", "build_and_check_1"),
    ("1 subject, 32 credentials in one call", "check_many_32"),
]


class Results:
    """The lines of the rivals' run."""

    def __init__(self, lines):
        self.values, self.ratios, self.notes = {}, {}, {}
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "figure":
                name, value, _ = rest.split(" ", 2)
                self.values[name] = float(value)
            elif word == "ratio":
                name, median, _ = rest.split(" ", 2)
                self.ratios[name] = float(median)
            elif word == "note":
                name, _, text = rest.partition(": ")
                self.notes[name] = text

    def ns(self, figure, size, who):
        return self.values.get(f"check_ns/{figure}/{size}/{who}")

    def ratio(self, figure, size, who):
        return self.ratios.get(f"{figure}/{size}/{who}")

    def sizes(self):
        """The sizes at which single checks were measured."""
        found = (re.fullmatch(r"check_ns/negative_1/(\d+)/rescind", name) for name in self.values)
        return sorted(int(match[1]) for match in found if match)

    def rivals(self):
        """The rivals, in the order in which they were measured."""
        found = (re.fullmatch(r"check_ns/negative_1/\d+/(.+)", name) for name in self.values)
        return list(dict.fromkeys(match[1] for match in found if match and match[1] != OURS))


def readable(ns):
    """A time to two or three digits, in ns below 10 µs."""
    if ns >= 1e6:
        return f"{ns / 1e6:,.1f} ms"
    if ns >= 1e4:
        return f"{ns / 1e3:.0f} µs"
    return f"{ns:.1f} ns" if ns < 10 else f"{ns:,.0f} ns"


def times(ratio):
    if ratio >= 100:
        return f"{ratio:,.0f}x"
    return f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def cell(ns, ratio):
    return "" if ns is None or ratio is None else f"{readable(ns)} ({times(ratio)})"


def code(label):
    """The types in a label as code: Markdown would take them for tags."""
    return re.sub(r"\S+<.+>+", r"`\g<0>`", label)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def of_checks(results):
    sizes = results.sizes()
    columns = [f"{size:,}{' entries' if place == 0 else ''}" for place, size in enumerate(sizes)]
    rows = []
    for question, figure in QUESTIONS:
        cells = [cell(results.ns(figure, size, OURS), results.ratio(figure, size, BY_HAND)) for size in sizes]
        if any(cells):
            rows.append([question, *cells])
    lines = table(["a check by rescind (times as fast as the map)", *columns], rows)
    rows = []
    for who in results.rivals():
        cells = [cell(results.ns("negative_1", size, who), results.ratio("negative_1", size, who)) for size in sizes]
        rows.append([code(LABELS.get(who, who)), *cells])
    lines += [""] + table(["a lookup elsewhere, not revoked (times as slow as a check)", *columns], rows)
    rows = []
    for who in (OURS, BY_HAND):
        cells = [results.ratio("threads_2", size, who) for size in sizes]
        if any(cells):
            rows.append([code(LABELS.get(who, who)), *("" if ratio is None else times(ratio) for ratio in cells)])
    if rows:
        lines += [""] + table(["checks a second by 2 threads, against 1", *columns], rows)
    return lines


def of_disks(results, criterion):
    """Durable revocations and opening: from the rivals' run, or from criterion's where that has none."""
    rows = []
    for label, figure, bench, size in [
        ("one caller, one at a time", "durable_revoke_1", "revoke/sync/1", 1),
        ("64 callers, one at a time", "durable_revoke_64_callers", None, 1),
        ("64 in a commit", "durable_revoke_batch_64", "revoke/sync/64", 64),
        ("1,024 in a commit", None, "revoke/sync/1024", 1024),
    ]:
        if f"{figure}/rescind" in results.values:
            raw = results.ratios.get(f"{figure}/-/raw_file")
            rows.append([label, f"{results.values[f'{figure}/rescind']:,.0f}", times(raw) if raw else ""])
        elif bench in criterion:
            rows.append([label, f"{size * 1e9 / criterion[bench]:,.0f}", ""])
    head = ["durable revocations", "a second", "times as fast as a file that takes the same writes"]
    lines = table(head, rows) if rows else []
    rows = []
    for label, figure, bench in [
        ("from a snapshot", "open_entries_per_second", "open/snapshot/100000"),
        ("from a log", "open_from_log_entries_per_second", "open/log/100000"),
    ]:
        found = ((re.fullmatch(figure + r"/(\d+)", name), value) for name, value in results.values.items())
        measured = [(int(match[1]), value) for match, value in found if match]
        if not measured and bench in criterion:
            measured = [(100_000, 1e5 * 1e9 / criterion[bench])]
        for entries, per_second in measured:
            rows.append([f"{entries:,} entries {label}", f"{entries / per_second * 1e3:,.0f}", f"{per_second:,.0f}"])
    if rows:
        lines += [""] + table(["opening a store", "ms", "entries a second"], rows)
    return lines


def of_memory(results):
    names = (re.fullmatch(r"memory_bytes_per_token/(\d+)/(.+)/grown/(allocator|rss)", name) for name in results.values)
    found = [match for match in names if match]
    sizes = sorted({int(match[1]) for match in found})
    whos = dict.fromkeys(match[2] for match in found)

    def bytes_of(size, who):
        name = f"memory_bytes_per_token/{size}/{who}/grown"
        both = [results.values.get(f"{name}/{kind}") for kind in ("allocator", "rss")]
        return " / ".join("-" if value is None else f"{value:.0f}" for value in both)

    rows = [[code(LABELS.get(who, who)), *(bytes_of(size, who) for size in sizes)] for who in whos]
    head = ["bytes a revoked token, allocated / resident", *(f"{size:,}" for size in sizes)]
    return table(head, rows) if rows else []


# The chart. Both axes are logarithmic.
WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 84, 650, 92, 472
LABEL_GAP = 17
EMPHASIS = {OURS: "#0b57d0", BY_HAND: "#24292f"}
# Dark enough for text on white, and told apart by those who see colours differently.
PALETTE = ["#9a3b00", "#00695c", "#8e2f76", "#7a5c00", "#3f51a3", "#b3261e", "#2e6b1f", "#5d4037", "#006783", "#6b6b6b"]


def apart(wanted, gap, low, high):
    """Moves labels apart, each no further from its place than needed. In and out: places by name."""
    groups = [[place, [name]] for name, place in sorted(wanted.items(), key=lambda item: item[1])]

    def top(group):
        extent = gap * (len(group[1]) - 1)
        return min(max(group[0] - extent / 2, low), high - extent)

    place = 1
    while place < len(groups):
        above, below = groups[place - 1], groups[place]
        if top(above) + gap * len(above[1]) > top(below):
            counts = len(above[1]), len(below[1])
            above[0] = (above[0] * counts[0] + below[0] * counts[1]) / sum(counts)
            above[1] += below[1]
            del groups[place]
            place = max(1, place - 1)
        else:
            place += 1
    return {name: top(group) + gap * number for group in groups for number, name in enumerate(group[1])}


def chart(results):
    sizes = results.sizes()
    lines = {}
    for who in [*results.rivals(), OURS]:
        points = [(size, results.ns("negative_1", size, who)) for size in sizes]
        lines[who] = [(size, ns) for size, ns in points if ns]
    every = [ns for points in lines.values() for _, ns in points]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))

    def x(size):
        first, last = math.log10(sizes[0]), math.log10(sizes[-1])
        return LEFT + (math.log10(size) - first) / (last - first) * (RIGHT - LEFT)

    def y(ns):
        return BOTTOM - (math.log10(ns) - low) / (high - low) * (BOTTOM - TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">',
        '<title id="title">Time of a check by the number of revoked tokens, for rescind and its rivals</title>',
        # A card of its own, so that it reads the same on a light page and on a dark one.
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="#ffffff" stroke="#d0d7de"/>',
        '<text x="28" y="38" font-size="19" font-weight="600" fill="#1f2328">'
        "Is this token revoked? What it takes to say no</text>",
        '<text x="28" y="62" fill="#57606a">Time of one check, by how many tokens are revoked. '
        "Both axes are logarithmic; lower is better.</text>",
    ]
    for power in range(low, high + 1):
        at = y(10**power)
        label = f"{10 ** (power % 3)} {('ns', 'µs', 'ms', 's')[power // 3]}"
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}" stroke="#e3e7ec"/>')
        out.append(f'<text x="{LEFT - 10}" y="{at + 4:.1f}" text-anchor="end" fill="#57606a">{label}</text>')
    for size in sizes:
        at = x(size)
        out.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{BOTTOM}" stroke="#f0f2f5"/>')
        out.append(f'<text x="{at:.1f}" y="{BOTTOM + 20}" text-anchor="middle" fill="#57606a">{size:,}</text>')
    middle = (LEFT + RIGHT) / 2
    out.append(f'<text x="{middle}" y="{BOTTOM + 42}" text-anchor="middle" fill="#57606a">revoked tokens</text>')

    colours = EMPHASIS | dict(zip((who for who in lines if who not in EMPHASIS), PALETTE * 2))
    labels = apart({who: y(points[-1][1]) for who, points in lines.items()}, LABEL_GAP, TOP, BOTTOM)
    for who, points in lines.items():
        colour, thick = colours[who], 3.5 if who == OURS else 2.25 if who == BY_HAND else 1.5
        path = " ".join(f"{x(size):.1f},{y(ns):.1f}" for size, ns in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}"/>')
        for size, ns in points:
            out.append(f'<circle cx="{x(size):.1f}" cy="{y(ns):.1f}" r="{thick / 2 + 1.5}" fill="{colour}"/>')
        (size, ns), label = points[-1], labels[who]
        out.append(
            f'<path d="M{x(size) + 6:.1f},{y(ns):.1f} L{RIGHT + 22},{label:.1f} H{RIGHT + 28}" '
            f'fill="none" stroke="{colour}" stroke-width="0.75" opacity="0.6"/>'
        )
        weight = ' font-weight="700"' if who == OURS else ' font-weight="600"' if who == BY_HAND else ""
        name = escape(LABELS.get(who, who))
        out.append(f'<text x="{RIGHT + 33}" y="{label + 4.5:.1f}" fill="{colour}"{weight}>{name}</text>')
    machine = escape(results.notes.get("machine", "unknown machine"))
    out.append(
        f'<text x="28" y="{HEIGHT - 18}" font-size="11.5" fill="#57606a">'
        "Medians; each rival in turns with rescind in one process, on the same 36-character ids in random order. "
        f"{machine}. Source: benches/results.txt</text>"
    )
    return "\n".join([*out, "</svg>", ""])


def measured_by_criterion():
    for path in (ROOT / "target" / "criterion").glob("**/new/benchmark.json"):
        name = json.loads(path.read_text())["full_id"]
        median = json.loads((path.parent / "estimates.json").read_text())["median"]
        interval = median["confidence_interval"]
        yield name, median["point_estimate"], interval["lower_bound"], interval["upper_bound"]


def criterion_results():
    rows = sorted(measured_by_criterion())
    if rows:
        with CRITERION.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["name", "median_ns", "low_ns", "high_ns"])
            out.writerows((name, *(f"{figure:.1f}" for figure in figures)) for name, *figures in rows)
    if not CRITERION.exists():
        return {}
    with CRITERION.open() as file:
        return {row["name"]: float(row["median_ns"]) for row in csv.DictReader(file)}


SERVICES = {
    "plain": "no layer",
    "idle_layer": "a layer that does nothing",
    "rescind": "`RevocationLayer`, asked for every request",
    "redis": "Redis `EXISTS`, asked for every request",
}


def of_services():
    """What a layer costs a service that says hello."""
    if not SERVICE.exists():
        return []
    line = r"service-overhead (\w+) ratio=(\S+) \[(\S+)\.\.(\S+)\] requests_per_second=(\d+) rounds=(\d+) revoked=(\d+)"
    rows, counts = [], set()
    for name, ratio, least, most, rate, rounds, revoked in re.findall(line, SERVICE.read_text()):
        counts.add((int(revoked), int(rounds)))
        spread = "" if name == "plain" else f" [{float(least):.2f}..{float(most):.2f}]"
        rows.append([SERVICES[name], f"{int(rate):,}", f"{float(ratio):.2f}{spread}"])
    (revoked, rounds), = counts
    head = f"an axum service under load, {revoked:,} tokens revoked"
    return table([head, "requests a second", f"of those without, median of {rounds} rounds"], rows)


def main():
    if not RIVALS.exists():
        raise SystemExit(f"{RIVALS} is missing: run the first command that {pathlib.Path(__file__).name} names")
    results = Results(RIVALS.read_text().splitlines())
    parts = [of_checks(results), of_disks(results, criterion_results()), of_memory(results), of_services()]
    # A line needs two ends.
    if len(results.sizes()) > 1:
        CHART.write_text(chart(results))
        alt = "Time of a check by the number of revoked tokens, for rescind and its rivals"
        parts.insert(0, [f"![{alt}](benches/check.svg)"])
    body = "\n\n".join("\n".join(lines) for lines in parts if lines)
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


main()
