"""`nightshift watch --html`: the same as a page that loads itself again, without a network or a server."""

import time
from collections.abc import Iterable
from html import escape

from nightshift.commands.watching import View, Watched
from nightshift.console.progress import hours

WIDTH, HEIGHT = 120, 28  # of a curve, in pixels
STYLE = """
:root { color-scheme: light dark; --line: #8886; --run: #1a7f37; --dead: #c62828; }
@media (prefers-color-scheme: dark) { :root { --run: #4fc36b; --dead: #ff7b72; } }
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem; max-width: 60rem; }
h1 { font-size: 1.2rem } h2 { font-size: 1rem; margin-top: 1.5rem }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; margin: .6rem 0; }
article header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .3rem 1rem; font-weight: 600 }
p { margin: .3rem 0; overflow-wrap: anywhere } small { opacity: .75 }
.running { color: var(--run) } .dead, .killed, .failed { color: var(--dead) }
svg { display: block; stroke: currentColor; fill: none }
progress { width: 100% }
"""


def page(view: View, every: float) -> str:
    """The HTML of a view; it loads itself again after `every` seconds."""
    seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.time))
    trainings = "".join(map(_training, view.trainings)) or "<p>No training in the last day.</p>"
    queue = "".join(
        _card(f"{one.name}: {one.arms}" if one.arms else one.name, one.state, [escape(one.line)]) for one in view.queue
    )
    queue = queue or "<p>No run waits, runs or has failed.</p>"
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{max(1, round(every))}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>nightshift watch</title><style>{STYLE}</style><body><h1>nightshift watch</h1>"
        f"<p><small>{seen}; if this time is old, <code>nightshift watch</code> no longer runs</small></p>"
        f"<h2>Trainings</h2>{trainings}<h2>Queue</h2>{queue}</body></html>\n"
    )


def _training(one: Watched) -> str:
    running, lines = one.running, []
    if one.curve:
        last = one.curve[-1]
        losses = f"loss {float(last['train_loss']):.3f}, in validation {float(last['val_loss']):.3f}"
        lines.append(f"Dice {float(last['val_dice']):.3f}, best {one.best:.3f}; {losses}")
        lines.append(_curve([float(row["val_dice"]) for row in one.curve]))
    left = f", {hours(one.left)} left" if one.left is not None else ""
    lines.append(f'<progress max="{running.epochs}" value="{len(one.curve)}"></progress>')
    where = f"run {running.run}" if running.run else "in the workspace"
    lines.append(f"epoch {len(one.curve)} of {running.epochs}{left}")
    changed = time.strftime("%a %H:%M:%S", time.localtime(one.changed))
    lines.append(
        f"<small>{escape(where)}, {escape(running.device)}, process {running.process} on {escape(running.host)}, "
        f"last change {changed}</small>"
    )
    return _card(one.name, one.state, lines)


def _card(title: str, state: str, lines: Iterable[str]) -> str:
    """`lines` are HTML."""
    body = "".join(line if line.startswith(("<svg", "<progress")) else f"<p>{line}</p>" for line in lines)
    head = f'<header>{escape(title)} <span class="{escape(state)}">{escape(state)}</span></header>'
    return f"<article>{head}{body}</article>"


def _curve(values: list[float]) -> str:
    """Dice over the epochs, from the lowest to the highest."""
    low, high = min(values), max(values)
    points = " ".join(
        f"{2 + (WIDTH - 4) * i / max(1, len(values) - 1):.1f},{2 + (HEIGHT - 4) * (high - v) / ((high - low) or 1):.1f}"
        for i, v in enumerate(values)
    )
    label = f"validation Dice from {low:.3f} to {high:.3f}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<polyline points="{points}" stroke-width="2"/></svg>'
    )
