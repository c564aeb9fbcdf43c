"""Programs, histories and reports as HTML for notebooks.

Everything is in one self-contained piece: styles inline, no scripts, colours
for light and dark themes. Parts unfold with ``<details>``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxpasses.errors import source_line
from fxpasses.fingerprint import SymbolNames, target_name
from fxpasses.graph_modules import body_of
from fxpasses.view.tables import byte_text, history_rows, report_headline
from fxpasses.view.text import keyword_defaults, short_source

if TYPE_CHECKING:
    from fxpasses.codegen.explain import Explanation
    from fxpasses.pipeline import History
    from fxpasses.program import Program
    from fxpasses.verify import Report

__all__ = ["explanation_html", "history_html", "program_html", "report_html"]

SHOWN_CALLS = 300
"""How many calls of a program a notebook shows; more only make it slow."""


# -- programs ------------------------------------------------------------------------


def program_html(program: Program, limit: int | None = SHOWN_CALLS) -> str:
    """Inputs, tensors, calls and outputs of a program.

    Args:
        program: the program.
        limit: show so many calls, the first and the last ones; all with None.
    """
    symbols = SymbolNames()
    inputs = [
        _cells(_name(n), _kind(n, symbols), escape(n.meta["role"].target) if "role" in n.meta else "")
        for n in program.inputs
    ]
    tensors = [n for n in program.placeholders if n.meta["role"].kind != "user"]
    calls, hidden = _shortened(list(_call_rows(program.graph_module, symbols, 0)), limit)
    outputs = list(_output_rows(program, symbols))
    ranges = [
        f"<span class='sym'>{escape(symbols.text(symbol))}</span> in [{bounds.lower}, {bounds.upper}]"
        for symbol, bounds in program.ranges.items()
    ]
    parts = [
        _summary(program),
        _details("inputs", len(inputs), _table(["value", "type", "argument"], inputs), True),
        _details("parameters and buffers", len(tensors), _tensors(program, tensors, symbols), False),
        _details(
            "calls",
            sum(node.op == "call_function" for node in program.nodes()),
            _table(["value", "type", "call", "source"], calls, "code") + _hidden_note(hidden),
            True,
        ),
        _details("outputs", len(outputs), _table(["output", "value", "type"], outputs), True),
    ]
    if ranges:
        parts.append(
            _details("dynamic sizes", len(ranges), f"<p class='mono'>{'<br>'.join(ranges)}</p>", True)
        )
    return _page(*parts)


def _summary(program: Program) -> str:
    facts = [f"fingerprint <code>{program.fingerprint[:12]}</code>"]
    if "via" in program.notes:
        facts.append(f"captured by {escape(str(program.notes['via']))}")
    return f"<p class='head'><b>Program</b> <span class='dim'>{' &middot; '.join(facts)}</span></p>"


def _tensors(program: Program, nodes: Sequence[fx.Node], symbols: SymbolNames) -> str:
    rows = []
    for node in nodes:
        role = node.meta["role"]
        tensor = program.tensors[role.target]
        kind = role.kind + ("" if role.persistent else " (not persistent)")
        size = byte_text(tensor.numel() * tensor.element_size())
        rows.append(_cells(_name(node), _kind(node, symbols), escape(role.target), kind, size))
    return _table(["value", "type", "name", "kind", "size"], rows)


def _call_rows(module: fx.GraphModule, symbols: SymbolNames, depth: int) -> Iterator[str]:
    pad = f"<span style='padding-left:{2 * depth}em'></span>"
    for node in module.graph.nodes:
        if node.op == "call_function":
            yield _cells(pad + _name(node), _kind(node, symbols), _call(node, symbols), _source(node))
        elif node.op == "get_attr":
            body = body_of(node)
            parameters = body.graph.find_nodes(op="placeholder") if body is not None else []
            spelled = ", ".join(f"{_name(n)}: {_kind(n, symbols)}" for n in parameters)
            yield _cells(f"{pad}<span class='kw'>def</span> {_name(node)}", "", f"({spelled})", "")
            if body is not None:
                yield from _call_rows(body, symbols, depth + 1)
                returned = _argument(body.graph.output_node().args[0], symbols)
                inner = f"<span style='padding-left:{2 * depth + 2}em'></span>"
                yield _cells(f"{inner}<span class='kw'>return</span>", "", returned, "")


def _output_rows(program: Program, symbols: SymbolNames) -> Iterator[str]:
    position = 0
    for role, value in program.outputs:
        if role.kind == "user":
            label, position = str(position), position + 1
        else:
            kind = role.kind.replace("_", " ").removesuffix(" mutation")
            label = f"<span class='kw'>new value of</span> {kind} {escape(str(role.target))}"
        kind_text = _kind(value, symbols) if isinstance(value, fx.Node) else ""
        yield _cells(label, _argument(value, symbols), kind_text)


def _shortened(rows: list[str], limit: int | None) -> tuple[list[str], int]:
    if limit is None or len(rows) <= limit:
        return rows, 0
    head, tail = rows[: limit * 3 // 4], rows[len(rows) - limit // 4 :]
    hidden = len(rows) - len(head) - len(tail)
    gap = f"<tr class='gap'><td colspan='4'>&hellip; {hidden:,} more &hellip;</td></tr>"
    return [*head, gap, *tail], hidden


def _hidden_note(hidden: int) -> str:
    if not hidden:
        return ""
    return (
        f"<p class='dim'>{hidden:,} lines are left out. All of them, after "
        "<code>from fxpasses.view.html import program_html</code>: "
        "<code>IPython.display.HTML(program_html(program, limit=None))</code>; "
        "as text: <code>print(program)</code>.</p>"
    )


# -- the parts of a call -----------------------------------------------------------------


def _name(node: fx.Node) -> str:
    return f"<span class='def'>{escape(node.name)}</span>"


def _kind(node: fx.Node, symbols: SymbolNames) -> str:
    """The type of a value; of several results the first, and all of them on hovering."""
    val = node.meta.get("val")
    text = symbols.type_text(val)
    if isinstance(val, tuple | list) and len(val) > 1:
        short = f"({escape(symbols.type_text(val[0]))}, &hellip;{len(val) - 1} more)"
        return f"<span class='type' title='{escape(text)}'>{short}</span>"
    return f"<span class='type'>{escape(text)}</span>"


def _call(node: fx.Node, symbols: SymbolNames) -> str:
    defaults = keyword_defaults(node.target)
    arguments = [_argument(arg, symbols) for arg in node.args]
    arguments += [
        f"<span class='dim'>{name}=</span>{_argument(arg, symbols)}"
        for name, arg in node.kwargs.items()
        if name not in defaults or isinstance(arg, fx.Node) or arg != defaults[name]
    ]
    path = target_name(node.target).split(".")
    if isinstance(node.target, torch._ops.OpOverload):
        space, name, overload = ".".join(path[:-2]) + ".", path[-2], "." + path[-1]
    else:
        space, name, overload = "".join(f"{part}." for part in path[:-1]), path[-1], ""
    operator = (
        f"<span class='dim'>{escape(space)}</span><span class='op'>{escape(name)}</span>"
        f"<span class='dim'>{escape(overload)}</span>"
    )
    return f"{operator}({', '.join(arguments)})"


def _argument(arg: Any, symbols: SymbolNames) -> str:
    if isinstance(arg, fx.Node):
        title = escape(symbols.type_text(arg.meta.get("val")))
        return f"<span class='ref' title='{title}'>{escape(arg.name)}</span>"
    if isinstance(arg, tuple | list):
        return f"[{', '.join(_argument(item, symbols) for item in arg)}]"
    if isinstance(arg, torch.SymInt | torch.SymFloat | torch.SymBool):
        return f"<span class='sym'>{escape(symbols.text(arg))}</span>"
    if isinstance(arg, str):
        return f"<span class='num'>{escape(repr(arg))}</span>"
    return f"<span class='num'>{escape(str(arg))}</span>"


def _source(node: fx.Node) -> str:
    return _place(source_line(node))


def _place(source: str | None) -> str:
    if source is None:
        return ""
    return f"<span class='dim' title='{escape(source, quote=True)}'>{escape(short_source(source))}</span>"


# -- histories -----------------------------------------------------------------------------


def history_html(history: History) -> str:
    """One row a pass: time with a bar, nodes before and after, what changed."""
    if not len(history):
        return _page("<p>no passes were run</p>")
    header, *rows, total = history_rows(history)
    shown = [i for i in range(len(header)) if i < 6 or any(row[i] for row in rows)]
    longest = max(step.milliseconds for step in history) or 1.0
    body = []
    for step, row in zip(history, rows, strict=True):
        bar = f"<span class='bar' style='width:{60 * step.milliseconds / longest:.1f}px'></span>"
        cells = [_history_cell(header[i], row[i], bar) for i in shown]
        body.append(_cells(*cells, style="" if step.modified else "same"))
    body.append(_cells(*(_history_cell(header[i], total[i], "") for i in shown), style="total"))
    return _page(_table([header[i] for i in shown], body, "history"))


def _history_cell(column: str, text: str, bar: str) -> str:
    classes = {"added": "plus", "removed": "minus", "difference": "num"}
    cell = escape(text).replace("-&gt;", "&rarr;")
    if column == "ms":
        return f"{bar} {cell}"
    if column == "modified":
        return "&#10003;" if text else ""
    if column in classes:
        return f"<span class='{classes[column]}'>{cell}</span>"
    return cell


# -- reports ---------------------------------------------------------------------------------


def report_html(report: Report) -> str:
    """The violations by rule, node, problem and source; for a good program the rules that hold."""
    docs = {rule.name: rule.doc for rule in report.rules}
    checked = [_cells(r.name, r.level, escape(r.doc)) for r in report.rules]
    rules = _table(["rule", "level", "what holds"], checked)
    mark = "<span class='minus'>&#10007;</span>" if report else "<span class='plus'>&#10003;</span>"
    head = f"<p class='head'>{mark} <b>{escape(report_headline(report))}</b></p>"
    rows = [
        _cells(
            f"<span class='op' title='{escape(docs.get(v.rule, ''), quote=True)}'>{escape(v.rule)}</span>",
            f"<span class='ref'>{escape(v.place)}</span>" if v.place else "<span class='dim'>program</span>",
            escape(v.message),
            _place(v.source),
        )
        for v in report
    ]
    found = _table(["rule", "node", "problem", "source"], rows, "report") if rows else ""
    return _page(head, found, _details("rules checked", len(report.rules), rules, False))


# -- explanations ------------------------------------------------------------------------------


def explanation_html(explanation: Explanation) -> str:
    """The operators with their number of calls; those that are not TVM code say why."""
    marks = {"native": "dim", "island": "num", "unsupported": "minus"}
    rows = [
        _cells(
            escape(row.op),
            str(row.count),
            f"<span class='{marks[row.kind]}'>{row.kind}</span>",
            ", ".join(map(str, row.islands)),
            escape(row.reason),
            _place(row.source or None),
        )
        for row in explanation
    ]
    head = f"<p class='head'><b>{escape(explanation.headline)}</b></p>"
    return _page(head, _table(["operator", "calls", "kind", "island", "reason", "source"], rows))


# -- pieces of HTML --------------------------------------------------------------------------

Render = Callable[..., str]


def _cells(*cells: str, style: str = "") -> str:
    mark = f" class='{style}'" if style else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _table(header: Sequence[str], rows: Iterable[str], style: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return (
        f"<div class='scroll'><table class='{style}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _details(title: str, count: int, content: str, unfolded: bool) -> str:
    state = " open" if unfolded and count else ""
    summary = f"<summary>{escape(title)} <span class='dim'>{count:,}</span></summary>"
    return f"<details{state}>{summary}{content}</details>"


def _page(*parts: str) -> str:
    return f"<div class='fxp'><style>{_STYLE}</style>{''.join(parts)}</div>"


# Notebooks say in their own ways that their theme is dark; a page of its own asks the system.
_DARK_THEMES = (
    "[data-jp-theme-light='false'] .fxp",
    "body.vscode-dark .fxp",
    "html[theme='dark'] .fxp",
    "html[data-theme='dark'] .fxp",
)
_LIGHT = "--op:#6f42c1;--ref:#0550ae;--type:#116329;--num:#953800;--minus:#b42318;--line:#8883"
_DARK = (
    "--op:#d2a8ff;--ref:#79c0ff;--type:#7ee787;--num:#ffa657;--minus:#ff7b72;--line:#8885;color-scheme:dark"
)
_SYSTEM = ":root:not([data-theme]):not([theme]) body:not([data-jp-theme-light]):not([class*=vscode]) .fxp"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"

_STYLE = (
    f".fxp{{{_LIGHT};font-size:13px;line-height:1.45;color:inherit;max-width:100%}}"
    f"{','.join(_DARK_THEMES)}{{{_DARK}}}"
    f"@media(prefers-color-scheme:dark){{{_SYSTEM}{{{_DARK}}}}}"
    ".fxp p{margin:.4em 0}"
    ".fxp details{margin:.3em 0}"
    ".fxp summary{cursor:pointer;font-weight:600}"
    ".fxp .scroll{overflow:auto;max-height:34em;margin:.3em 0 .5em;border:1px solid var(--line);"
    "border-radius:6px}"
    ".fxp table{border-collapse:collapse;margin:0;border:0;width:auto;min-width:100%;font-size:12px;"
    f"{_MONO}}}"
    f".fxp .mono{{font-size:12px;{_MONO}}}"
    ".fxp th,.fxp td{text-align:left!important;padding:2px 14px 2px 10px;border:0;white-space:nowrap;"
    "vertical-align:top;background:none;max-width:none}"
    ".fxp th{font-weight:600;opacity:.65;border-bottom:1px solid var(--line);padding-top:4px;"
    "padding-bottom:4px}"
    ".fxp td:last-child{width:99%}"
    ".fxp tbody tr{background:none!important}"
    ".fxp tbody tr:hover{background:#8882!important}"
    ".fxp .dim,.fxp tr.same{opacity:.6}"
    ".fxp .op{color:var(--op);font-weight:600}"
    ".fxp .kw{color:var(--op)}"
    ".fxp .ref,.fxp .def{color:var(--ref)}.fxp .def{font-weight:600}"
    ".fxp .type,.fxp .plus{color:var(--type)}"
    ".fxp .num,.fxp .sym{color:var(--num)}"
    ".fxp .minus{color:var(--minus)}"
    ".fxp .report td:nth-child(3){white-space:normal;min-width:30em}.fxp .report td:last-child{width:auto}"
    ".fxp .bar{display:inline-block;height:.65em;background:var(--ref);opacity:.55;border-radius:2px}"
    ".fxp .history td:nth-child(n+2):nth-child(-n+5),.fxp .history th:nth-child(n+2):nth-child(-n+5)"
    "{text-align:right!important}"
    ".fxp tr.total td{border-top:1px solid var(--line);font-weight:600}"
    ".fxp tr.gap td{text-align:center!important;opacity:.7;padding:6px}"
    ".fxp code{background:#8882;padding:0 .3em;border-radius:3px;color:inherit}"
)
