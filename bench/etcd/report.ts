/** What a run has found: a table for the terminal; of a whole run also `bench/results.json`, the plots, and the table of the documentation. */
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Row, Spread } from "./measure.ts"
import { lineChart, type Series } from "./plot.ts"

export interface Plot {
  readonly file: string
  readonly title: string
  readonly xLabel: string
  readonly yLabel: string
  readonly series: ReadonlyArray<Series>
}

export interface Run {
  readonly at: string
  readonly machine: Readonly<Record<string, unknown>>
  readonly missing: ReadonlyArray<string>
  readonly results: ReadonlyArray<Row>
  readonly plots: ReadonlyArray<Plot>
}

export const number = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)))

const spread = ({ least, median, most }: Spread): string =>
  least === most ? number(median) : `${number(median)} (${number(least)}-${number(most)})`

const detail = ({ ours, theirs, unit }: Row): string =>
  theirs === undefined ? `${spread(ours)} ${unit}` : `${spread(ours)} against ${spread(theirs)} ${unit}`

const measured = (row: Row): string => `${number(row.measured)}${row.theirs === undefined ? "" : " x"}`

export const line = (row: Row): string => {
  const verdict = row.met === undefined ? "      " : row.met ? "met   " : "MISSED"
  return `${verdict} ${row.what.padEnd(66)} ${measured(row).padStart(10)}  ${(row.bar ?? "").padEnd(22)} ${detail(row)}`
}

const root = Path.join(import.meta.dirname, "..", "..")
const page = Path.join(root, "docs", "performance.md")
const begin = "<!-- figures: written by npm run bench -->"
const end = "<!-- end of figures -->"

const figures = ({ at, machine, missing, plots, results }: Run): string =>
  [
    `${at.slice(0, 10)}, ${
      Object.entries(machine).map(([name, value]) => `${name} ${String(value)}`).join(", ")
    }. Medians, and the least and the most of all rounds.`,
    "",
    ...missing.length === 0 ? [] : [`Missing in this run: ${missing.join(", ")}.`, ""],
    "| scenario | bar | measured | |",
    "| --- | --- | --- | --- |",
    ...results.map((row) =>
      `| ${row.what} | ${row.bar ?? ""} | ${row.met === false ? "**missed** " : ""}${measured(row)} | ${detail(row)} |`
    ),
    "",
    ...plots.map(({ file, title }) => `![${title}](performance/${file})`)
  ].join("\n")

export const write = (run: Run): void => {
  const results = Path.join(root, "bench", "results.json")
  Fs.writeFileSync(results, `${JSON.stringify(run, undefined, 2)}\n`)
  const folder = Path.join(root, "docs", "performance")
  Fs.mkdirSync(folder, { recursive: true })
  for (const { file, series, title, xLabel, yLabel } of run.plots) {
    Fs.writeFileSync(Path.join(folder, file), lineChart(title, xLabel, yLabel, series))
  }
  const text = Fs.readFileSync(page, "utf8")
  const [before, rest] = text.split(begin)
  const after = rest?.split(end)[1]
  if (before === undefined || after === undefined) return
  Fs.writeFileSync(page, `${before}${begin}\n\n${figures(run)}\n\n${end}${after}`)
  execFileSync(Path.join(root, "node_modules", ".bin", "dprint"), ["fmt", results, page], { stdio: "ignore" })
}
