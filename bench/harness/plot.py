"""Draws a run as an SVG: for each group a bar per rival, its length the geometric mean of the slowdowns on a
logarithmic scale. Plain shapes and text, no script, legible on light and dark pages."""
import html
import math

from . import report, workloads

WIDTH, LEFT, RIGHT = 860, 150, 70
BAR, GAP, GROUP_GAP, TOP = 15, 3, 16, 58
COLOURS = {"jit": "#0b6e4f", "interpreter": "#7cb518", "tcg": "#8d99ae", "tcg-max": "#d9822b",
           "tcg-max-noerms": "#b5485d"}
OTHER = "#08a0c5"


def text(x, y, content, **attributes):
    extra = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{html.escape(content)}</text>'


def draw(run):
    figures = report.Figures(run)
    means = {g: [(r, figures.mean(r, g)[0]) for r in figures.emulators] for g in figures.groups}
    means = {g: [(r, m) for r, m in bars if m] for g, bars in means.items()}
    top = max([m for bars in means.values() for _, m in bars] + [2.0])
    decades = max(1.0, math.log10(top) * 1.03)

    def x_of(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * max(0.0, math.log10(value)) / decades

    colour = {rival: COLOURS.get(rival, OTHER) for rival in figures.emulators}
    shapes, y = [], TOP
    for group, bars in means.items():
        middle = y + len(bars) * (BAR + GAP) / 2
        shapes.append(text(LEFT - 12, middle - 2, group, text_anchor="end", font_weight="bold", font_size="14"))
        shapes.append(text(LEFT - 12, middle + 12, workloads.GROUPS[group], text_anchor="end", font_size="10"))
        for rival, mean in bars:
            shapes.append(f'<rect x="{LEFT}" y="{y}" width="{max(x_of(mean) - LEFT, 1):.1f}" height="{BAR}" '
                          f'fill="{colour[rival]}"><title>{html.escape(rival)}: {mean:.2f}x</title></rect>')
            shapes.append(text(x_of(mean) + 5, y + BAR - 3.5, report.cell(mean, 0), font_size="11"))
            y += BAR + GAP
        y += GROUP_GAP
    bottom = y
    grid = []
    for tick in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000):
        if tick <= 10**decades:
            x = x_of(tick)
            grid.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom - GROUP_GAP + 4}" '
                        f'stroke="#999" stroke-width="{1.5 if tick == 1 else 0.5}"/>')
            grid.append(text(x, bottom, f"{tick}x", text_anchor="middle", font_size="11"))
    legend, x, row = [], LEFT, bottom + 24
    for rival in figures.emulators:
        label = f"{rival}: {run['rivals'][rival]['what']}"
        if x > LEFT and x + 8 * len(label) > WIDTH:
            x, row = LEFT, row + 20
        legend.append(f'<rect x="{x}" y="{row - 10}" width="12" height="12" fill="{colour[rival]}"/>')
        legend.append(text(x + 17, row, label, font_size="12"))
        x += 40 + 7 * len(label)
    height = row + 16
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" fill="#222" role="img">',
        "<title>Slowdown against native, by group of workloads</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        text(LEFT, 24, "Slowdown against native execution", font_size="17", font_weight="bold"),
        text(LEFT, 41, "geometric mean of each group's workloads, logarithmic scale; shorter is better",
             font_size="12"),
        *grid, *shapes, *legend, "</svg>", ""])
