"""The frame of the report: one HTML page with its styles inside."""

from string import Template

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light;
  --ink: #1d2433; --soft: #5b6478; --rule: #e3e7ee; --paper: #ffffff; --ground: #f5f6f9;
  --blue: #2f5fd0; --orange: #d9730d; --green: #1f8a5b; --purple: #8250c4;
  --good: #e8f5ee; --bad: #fdecea; --bad-ink: #a1261b;
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 1060px; margin: 0 auto; padding: 36px 24px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 40px 0 12px; }
h3 { font-size: 14px; margin: 20px 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 10px; }
.lead { font-size: 17px; color: var(--soft); max-width: 780px; }
.card {
  background: var(--paper); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 22px 0 14px; }
.tile .big { font-size: 26px; font-weight: 650; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.tile .what { color: var(--soft); font-size: 13px; }
.guards { border-left: 4px solid var(--green); background: var(--good); border-radius: 8px;
  padding: 12px 16px; }
.guards.broken { border-color: var(--bad-ink); background: var(--bad); }
.guards.broken strong { color: var(--bad-ink); }
.guards ul, .notes ul { margin: 6px 0 0; padding-left: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; color: var(--soft); font-size: 13px; }
tbody tr:last-child td { border-bottom: 0; }
td small { color: var(--soft); font-size: 12px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 6px; }
figcaption span { font-weight: 400; color: var(--soft); font-size: 12.5px; display: block; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg text.label { font-size: 13px; fill: var(--ink); }
svg text.value { font-size: 12.5px; fill: var(--ink); white-space: pre; }
.grid { stroke: var(--rule); stroke-width: 1; }
.reference { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 4; }
.bar { stroke: #a9bdf0; stroke-width: 8; stroke-linecap: round; }
.mark { fill: var(--paper); stroke: var(--orange); stroke-width: 2; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.line.s0 { stroke: var(--blue); } .line.s1 { stroke: var(--orange); }
.line.s2 { stroke: var(--green); } .line.s3 { stroke: var(--purple); }
.line.faint { opacity: 0.45; } .line.s1 { stroke-width: 2.2; }
.dot.s0 { fill: var(--blue); } .dot.s1 { fill: var(--orange); }
.dot.s2 { fill: var(--green); } .dot.s3 { fill: var(--purple); }
.legend { margin: 4px 0 0; font-size: 12.5px; color: var(--soft); }
.key { margin-right: 14px; } .key::before { content: ""; display: inline-block; width: 14px;
  height: 3px; border-radius: 2px; margin: 0 6px 3px 0; background: currentColor; }
.key.s0::before { background: var(--blue); } .key.s1::before { background: var(--orange); }
.key.s2::before { background: var(--green); } .key.s3::before { background: var(--purple); }
.sample { margin-bottom: 12px; padding: 0; overflow: hidden; }
.sample .prompt { padding: 9px 16px; background: #fafbfd; border-bottom: 1px solid var(--rule);
  color: var(--soft); font-size: 13.5px; }
.sides { display: grid; grid-template-columns: 1fr 1fr; }
.sides > div { padding: 11px 16px 13px; min-width: 0; }
.sides > div + div { border-left: 1px solid var(--rule); }
.side-name { font-size: 12px; font-weight: 600; color: var(--soft); margin-bottom: 2px; }
.after .side-name { color: var(--blue); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.empty { color: var(--soft); font-style: italic; }
.notes { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
.notes h3 { margin-top: 0; color: var(--ink); }
.notes li, .guards li { margin-bottom: 4px; }
footer { margin-top: 36px; color: var(--soft); font-size: 13px; }
@media (max-width: 640px) {
  .sides, .notes { grid-template-columns: 1fr; }
  .sides > div + div { border-left: 0; border-top: 1px solid var(--rule); }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
"""
)
