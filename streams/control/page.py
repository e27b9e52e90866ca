"""The web view: one plain page, made from the same data as /status.json. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from streams.runtime.refusals import in_words, total, without_refusals

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem }
table { border-collapse: collapse; margin: .4rem 0 } caption { text-align: left; color: #555; padding-bottom: .2rem }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #a40000; font-weight: 600 } .good { color: #1b6e1b } .quiet { color: #666 }
pre { background: #f5f5f5; padding: .5rem; overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } th, td { border-color: #444 }
pre { background: #242424 } .bad { color: #ff8080 } .good { color: #80d080 } .quiet, caption { color: #999 } }
"""


def render(overview: Mapping[str, Any]) -> str:
    """Return the page for `Control.overview()`."""
    control = overview["control"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Tidecast</title>",
        "<meta name='viewport' content='width=device-width'><meta http-equiv='refresh' content='5'>",
        f"<style>{_STYLE}</style></head><body><h1>Tidecast</h1>",
        f"<p class='quiet'>{_time(control['at'])} · control worker {escape(control['worker'])} {_ready(control)} · "
        "<a href='/status.json'>as JSON</a></p>",
        "<h2>Workers</h2>",
        _workers(overview["workers"]),
        "<h2>Purchase predictions against what happened</h2>",
        _purchase(control["quality"]),
        "<h2>Demand forecasts against what sold</h2>",
        _demand(control["quality"]),
        "<h2>Models in service</h2>",
        _models(control["models"]),
        "<h2>Training</h2>",
        _training(control["training"]),
        "</body></html>",
    ]
    return "".join(parts)


def _workers(workers: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, status in workers.items():
        tasks = status.get("tasks", {}).values()
        marks = [task.get("watermark") for task in tasks]
        counts = total(task.get("counts", {}) for task in tasks)
        known = [mark for mark in marks if mark is not None]
        rows.append(
            [
                escape(name),
                _ready(status),
                len(status.get("tasks", {})),
                _time(min(known)) if known else "",
                escape(", ".join(f"{what} {count:,}" for what, count in sorted(without_refusals(counts).items()))),
                escape(in_words(counts)),
                _time(status.get("at")),
            ]
        )
    if not rows:
        return "<p class='quiet'>None was heard of yet; control.status_urls says whom to ask.</p>"
    return _table(["worker", "ready", "tasks", "watermark", "tallies", "refused", "as of"], rows)


def _purchase(quality: Mapping[str, Any]) -> str:
    if not quality["purchase"]:
        return (
            f"<p class='quiet'>Nothing judged yet: {quality['pending']['purchase']:,} predictions wait for the end of "
            "their horizon.</p>"
        )
    rows = []
    for name, figures in quality["purchase"].items():
        drift = figures["drift"]
        rows.append(
            [
                escape(f"{name}:{figures['version']}"),
                figures["judged"],
                figures["positives"],
                figures["log_loss"],
                figures["base_log_loss"],
                figures["recent"]["log_loss"],
                figures["brier"],
                f"<span class='bad'>rose {drift['risen']}×, last {_time(drift['last_at'])}</span>"
                if drift["risen"]
                else "none",
            ]
        )
    head = ["model", "judged", "bought", "log loss", "best constant", "log loss, latest", "Brier", "drift"]
    skipped = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in quality["skipped"].items() if count)
    note = (
        f"<p class='quiet'>Event time settled to {_time(quality['watermark'])}; {quality['pending']['purchase']:,} "
        f"pending; share of users judged {quality['sample']:.3g}{'; skipped: ' if skipped else ''}{escape(skipped)}."
        "</p>"
    )
    calibration = "".join(
        _table(
            ["predicted", "count", "mean prediction", "share bought"],
            [[f"{r['from']:.1f} to {r['from'] + 0.1:.1f}", r["count"], r["predicted"], r["observed"]] for r in rows_],
            caption=f"Calibration of {name}",
        )
        for name, rows_ in ((n, f["calibration"]) for n, f in quality["purchase"].items())
    )
    return _table(head, rows) + note + calibration


def _demand(quality: Mapping[str, Any]) -> str:
    if not quality["demand"]:
        return f"<p class='quiet'>Nothing judged yet: {quality['pending']['demand']:,} steps wait for their bucket.</p>"
    rows = [
        [escape(f"{name}:{f['version']}"), which, g["judged"], g["wape"], g["wql"], g["coverage_80"], g["coverage_95"]]
        for name, f in _forecasters(quality)
        for which, g in (("all", f), ("next bucket", f["next_bucket"]))
    ]
    return _table(["model", "steps", "judged", "WAPE", "WQL", "coverage of 80 %", "coverage of 95 %"], rows)


def _forecasters(quality: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from quality["demand"].items()
    yield from ((f"{name} (shadow)", figures) for name, figures in quality["shadow"].items())


def _models(models: Mapping[str, Mapping[str, Any]]) -> str:
    if not models:
        return "<p class='quiet'>None announced yet.</p>"
    rows = [
        [escape(role), escape(f"{one['name']}:{one['version']}"), _time(one["published_at"])]
        for role, one in sorted(models.items())
    ]
    return _table(["role", "model", "published"], rows)


def _training(training: Mapping[str, Any]) -> str:
    last = training["last"]
    lines = []
    if training["running"]:
        lines.append(f"<p class='good'>Running since {_time(last['started_at'])} ({escape(last['cause'])}).</p>")
    elif last is not None:
        kind = "good" if last["exit_code"] == 0 else "bad"
        lines.append(
            f"<p class='{kind}'>Last: {_time(last['started_at'])} to {_time(last['ended_at'])} "
            f"({escape(last['cause'])}), exit code {last['exit_code']}.</p>"
        )
    following = _time(training["next_at"]) if training["next_at"] is not None else "never"
    lines.append(
        f"<p>Schedule <code>{escape(training['schedule'] or 'none')}</code> ({escape(training['timezone'])}), next "
        f"{following}. Finished {training['finished']}, failed {training['failed']}, refused {training['refused']}.</p>"
    )
    if training["tail"]:
        lines.append(f"<pre>{escape(chr(10).join(training['tail']))}</pre>")
    if not training["running"]:
        lines.append("<form method='post' action='/train'><button>Train now</button></form>")
    return "".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """`rows` hold numbers, or text that is HTML already."""
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "<td class='number'>–</td>"
    if isinstance(value, int):
        return f"<td class='number'>{value:,}</td>"
    if isinstance(value, float):
        return f"<td class='number'>{value:.4f}</td>"
    return f"<td>{value}</td>"


def _ready(status: Mapping[str, Any]) -> str:
    if status.get("ready"):
        return "<span class='good'>ready</span>"
    return f"<span class='bad'>not ready: {escape(str(status.get('reason')))}</span>"


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return "–"
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
