"""The style sheet of the HTML report: one column on a phone, light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --raised: #f4f5f7; --ink: #1b1f24; --quiet: #59626d;
  --line: #d5d9df; --good: #116a32; --good-ground: #e3f4e8; --bad: #b3141c; --bad-ground: #fdeaea;
  --none: #6b5300; --none-ground: #fbf3d9; --blue: #1257b0; --purple: #7a3ea8; --orange: #a64b00; --band: #1257b02e;
  --teal: #006d77; --rose: #b0156b; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --raised: #1e2329; --ink: #e6e9ed; --quiet: #a3adb8;
  --line: #39414b; --good: #6bd48b; --good-ground: #12331f; --bad: #ff8a8a; --bad-ground: #411a1c; --none: #e6c65c;
  --none-ground: #3a3214; --blue: #7db4ff; --purple: #cf9bf5; --orange: #f5a860; --band: #7db4ff4d;
  --teal: #5fd3dd; --rose: #ff8fcb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 8px 0 6px; }
h2 { font-size: 1.25rem; margin: 40px 0 10px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 22px 0 6px; }
p, li { max-width: 76ch; }
.verdict { font-size: 1.15rem; line-height: 1.45; margin: 6px 0 10px; max-width: 90ch; }
.quiet { color: var(--quiet); }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.9em;
  overflow-wrap: anywhere; }
.card { border: 1px solid var(--line); border-left: 6px solid var(--line); border-radius: 6px; padding: 12px 16px;
  margin: 14px 0; background: var(--raised); }
.card.bad { border-left-color: var(--bad); background: var(--bad-ground); }
.card.good { border-left-color: var(--good); background: var(--good-ground); }
.card.none { border-left-color: var(--none); background: var(--none-ground); }
.card h3 { margin-top: 0; }
.tag { display: inline-block; font-weight: 700; padding: 0 8px; border-radius: 4px; border: 1px solid currentColor;
  font-size: 0.85rem; }
.stages .tag.good, .tag.good, td.good { color: var(--good); }
.tag.bad, td.bad { color: var(--bad); }
.tag.none, td.none { color: var(--none); }
td.bad { font-weight: 700; background: var(--bad-ground); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 16px; margin: 8px 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border: 1px solid var(--line); padding: 5px 9px; text-align: left; vertical-align: top; }
th { background: var(--raised); font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; } td code { white-space: normal; }
small { display: block; color: var(--quiet); font-weight: 400; white-space: nowrap; }
.matrix { font-size: 0.86rem; }
.matrix th, .matrix td { padding: 5px 7px; }
.matrix thead th, .matrix td, .matrix small { white-space: normal; }
.matrix tbody th { white-space: normal; min-width: 9em; }
.stages ul { list-style: none; margin: 4px 0 18px; padding: 0; display: grid; gap: 4px;
  grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
.stages li { border: 1px solid var(--line); border-radius: 4px; padding: 4px 7px; font-size: 0.86rem;
  overflow-wrap: anywhere; }
.number { white-space: nowrap; }
.stages li span:first-child { display: block; color: var(--ink); font-weight: 600; }
.stages li small { white-space: normal; }
.stages .good { color: var(--good); } .stages .none { color: var(--none); }
.stages li.bad { color: var(--bad); background: var(--bad-ground); font-weight: 700; }
.chain { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 10px; margin: 8px 0; }
.chain b { min-width: 0; overflow-wrap: anywhere; }
.chain span.step { border: 1px solid var(--line); border-radius: 4px; padding: 3px 9px; background: var(--raised);
  overflow-wrap: anywhere; }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--quiet); font-size: 12px; font-family: inherit; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .limit { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 6 4; }
svg .limit-text { fill: var(--ink); }
svg .first { stroke: var(--bad); stroke-width: 1.5; }
svg .first-text { fill: var(--bad); font-weight: 700; }
svg circle.good { fill: var(--good); }
svg circle.bad { fill: var(--bad); }
svg .band { fill: var(--band); stroke: none; }
svg polyline { fill: none; stroke-width: 1.6; }
svg .single { stroke: var(--blue); }
svg .reference { stroke-width: 6; opacity: 0.35; }
svg .port { stroke-width: 1.8; stroke-dasharray: 5 4; }
svg .term0 { stroke: var(--blue); } svg .term1 { stroke: var(--orange); }
svg .term2 { stroke: var(--purple); } svg .term3 { stroke: var(--good); }
svg .term4 { stroke: var(--rose); } svg .term5 { stroke: var(--teal); }
.narrow { display: none; }
.key { list-style: none; padding: 0; margin: 6px 0; display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 0.88rem;
  color: var(--quiet); }
.key i { display: inline-block; width: 14px; height: 10px; margin-right: 6px; border-radius: 2px; }
.key .dot { width: 9px; height: 9px; border-radius: 50%; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); }
img.picture { width: 100%; min-width: 640px; }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
@media (max-width: 640px) {
  main { padding: 12px 12px 40px; } h1 { font-size: 1.3rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dt { margin-top: 6px; }
  .wide { display: none; } .narrow { display: block; }
}
@media print { .scroll { overflow: visible; } }
"""
