"""From samples to medians, ranges and ratios, and from those to Markdown."""

import statistics

# goal; test, path, the path it is compared with, number; bound of the ratio (at most for times, at least for rates)
MUST = (
    ("connect, stock `ssh` by ProxyCommand / `ssh -J` defaults", ("connect", "P", "J", "ms"), 0.5),
    ("bulk down, stock `ssh` with the same ciphers / tuned `ssh -J`", ("down", "Pt", "Jt", "mb_s"), 1.0),
    ("bulk up, stock `ssh` with the same ciphers / tuned `ssh -J`", ("up", "Pt", "Jt", "mb_s"), 1.0),
)
HUB_KIB = 190


def percentile(values, share):
    values = sorted(values)
    at = (len(values) - 1) * share
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


class Summary:
    """`samples[test][path]` is a list over rounds of lists of what `measure` returned."""

    def __init__(self, samples):
        self.samples = samples

    def rounds(self, test, path, key, role=None):
        """One number per round: the median of what was measured in it."""
        numbers = []
        for legs in self.samples.get(test, {}).get(path, []):
            values = []
            for leg in legs:
                value = leg[key] if role is None else leg[key].get(role)
                values += value if isinstance(value, list) else [value] if value is not None else []
            if values:
                numbers.append(statistics.median(values))
        return numbers

    def all(self, test, path, key):
        return [v for legs in self.samples[test][path] for leg in legs for v in leg[key]]

    def ratios(self, test, path, other, key):
        """`path` / `other`, paired inside each round."""
        return [a / b for a, b in zip(self.rounds(test, path, key), self.rounds(test, other, key), strict=True) if b]

    def roles(self, test, path, key):
        """role -> median over rounds."""
        names = {role for legs in self.samples[test][path] for leg in legs for role in leg[key]}
        order = ("bastion", "target", "hub", "agent", "starter", "node", "client")
        return {role: statistics.median(self.rounds(test, path, key, role)) for role in order if role in names}


def spread(values, digits):
    """`median [min..max]`."""
    if not values:
        return "–"
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def per_role(values, digits):
    return ", ".join(f"{role} {value:.{digits}f}" for role, value in values.items())


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def ratio_cells(summary, test, path, key):
    present = summary.samples[test]
    return [spread(summary.ratios(test, path, other, key), 2) if other in present else "–" for other in ("J", "Jt")]


def verdicts(summary, idle_path="P"):
    """(goal, measured, bound, met) for every must-goal that this run could measure."""
    found = []
    for what, (test, path, other, key), bound in MUST:
        present = summary.samples.get(test, {})
        if path in present and other in present:
            ratios = summary.ratios(test, path, other, key)
            value = statistics.median(ratios)
            met = value <= bound if test == "connect" else value >= bound
            sign = "≤" if test == "connect" else "≥"
            found.append((what, "× " + spread(ratios, 2), f"{sign} {bound}", met))
    hub = summary.rounds("idle", idle_path, "kib", "hub") if idle_path in summary.samples.get("idle", {}) else []
    if hub:
        found.append(("hub memory per idle session", f"{spread(hub, 0)} KiB", f"≤ {HUB_KIB} KiB", statistics.median(hub) <= HUB_KIB))
    return found


def markdown(result):
    """The figures of one run."""
    summary, paths = Summary(result["samples"]), result["paths"]
    about = result["machine"]
    text = [
        f"Run of {about['date']}: {about['cpus']} × {about['cpu']}, Linux {about['kernel']}, {about['ssh']}; "
        f"{result['rounds']} rounds. Load {about['load'][0]:.1f} before, "
        f"{about['load'][1]:.1f} after (the run itself is part of it); a fixed piece of work took "
        f"{spread(result['calibration_ms'], 0)} ms between tests.\n"
    ]
    goals = verdicts(summary)
    if goals:
        text.append("### Goals\n\n" + table(
            ["goal", "measured", "bound", ""], [[g, m, b, "met" if met else "**missed**"] for g, m, b, met in goals]))
    if "connect" in summary.samples:
        rows = [[
            name, paths[name], spread(summary.rounds("connect", name, "ms"), 0),
            f"{percentile(summary.all('connect', name, 'ms'), 0.95):.0f}", *ratio_cells(summary, "connect", name, "ms"),
            per_role(summary.roles("connect", name, "cpu_ms"), 1),
        ] for name in summary.samples["connect"]]
        text.append("### Connect and run `true`\n\n" + table(
            ["", "path", "median ms", "p95 ms", "× J", "× Jt", "CPU ms per connection"], rows))
    for test, title in (("down", "Bulk, node to client"), ("up", "Bulk, client to node")):
        if test in summary.samples:
            rows = [[
                name, paths[name], spread(summary.rounds(test, name, "mb_s"), 0), *ratio_cells(summary, test, name, "mb_s"),
                per_role(summary.roles(test, name, "cpu_s_gb"), 2),
            ] for name in summary.samples[test]]
            text.append(f"### {title}\n\n" + table(["", "path", "MB/s", "× J", "× Jt", "CPU s per GB"], rows))
    if "idle" in summary.samples:
        rows = []
        for name in summary.samples["idle"]:
            for role in summary.roles("idle", name, "kib"):
                rows.append([name, paths[name], role, spread(summary.rounds("idle", name, "kib", role), 0)])
        text.append(f"### Memory per idle session (PSS, {result['sessions']} sessions, each with a terminal)\n\n" + table(
            ["", "path", "role", "KiB"], rows))
    concurrent = [test for test in summary.samples if test.startswith("concurrent-")]
    if concurrent:
        rows = []
        for test in concurrent:
            for name in summary.samples[test]:
                failed = sum(leg["failures"] for legs in summary.samples[test][name] for leg in legs)
                tried = sum(len(legs) for legs in summary.samples[test][name]) * int(test.split("-")[1])
                rows.append([
                    test.split("-")[1], name, paths[name], f"{failed} of {tried}",
                    spread(summary.rounds(test, name, "per_s"), 1), *ratio_cells(summary, test, name, "per_s"),
                ])
        text.append("### Clients at once\n\n" + table(
            ["clients", "", "path", "failed", "connections/s", "× J", "× Jt"], rows))
    if result.get("recordings") is not None:
        kept = result["recordings"]
        text.append(f"Recording was on: the hub lists {kept['listed']} recordings of {kept['sessions']} sessions.\n")
    return "\n".join(text)
