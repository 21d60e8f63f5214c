/** The figures of a run of `npm run test:faults`, as one table: printed at its end and written to `reports/`. */
import * as Fs from "node:fs"
import * as Path from "node:path"

export interface Row {
  /** What was done, in a user's words. */
  readonly what: string
  /** What is to be reached. */
  readonly bar: string
  readonly measured: string
  readonly ok: boolean
  /** Of etcd, where the row is about one. */
  readonly version?: string | undefined
}

const folder = Path.join(import.meta.dirname, "..", "..", "reports")

/** Of this run alone, so that runs that overlap do not mix. Workers inherit it. */
const variable = "EFFECT_COORD_FAULT_ROWS"

/** Adds a row. To a file, as each test file runs in a process of its own. */
export const record = (row: Row): void => {
  const file = process.env[variable]
  if (file !== undefined) Fs.appendFileSync(file, `${JSON.stringify(row)}\n`)
}

/** Writes a text beside the table, as the accounts of a long run. */
export const attach = (name: string, text: string): void => {
  Fs.mkdirSync(folder, { recursive: true })
  Fs.writeFileSync(Path.join(folder, name), text)
}

export const table = (rows: ReadonlyArray<Row>): string => {
  const cells = [
    ["what", "etcd", "bar", "measured", "ok"],
    ...rows.map((row) => [row.what, row.version ?? "", row.bar, row.measured, row.ok ? "yes" : "NO"])
  ].map((line) => line.map((cell) => cell.replaceAll("|", "\\|").replaceAll("\n", " ")))
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(3, ...cells.map((line) => (line[column] ?? "").length)))
  const format = (line: ReadonlyArray<string>, fill: string) =>
    `| ${line.map((cell, column) => cell.padEnd(widths[column] ?? 0, fill)).join(" | ")} |`
  const [head = [], ...body] = cells
  return [format(head, " "), format(["", "", "", "", ""], "-"), ...body.map((line) => format(line, " "))].join("\n")
}

/** Vitest's global setup of the fault tests. */
export const setup = (): () => void => {
  Fs.mkdirSync(folder, { recursive: true })
  const file = Path.join(folder, `rows-${process.pid}.jsonl`)
  Fs.writeFileSync(file, "")
  process.env[variable] = file
  return () => {
    const rows: ReadonlyArray<Row> = Fs.readFileSync(file, "utf8").split("\n").filter((line) => line !== "")
      .map((line) => JSON.parse(line))
    Fs.rmSync(file)
    if (rows.length === 0) return
    const text = table(rows)
    Fs.writeFileSync(Path.join(folder, "faults.json"), `${JSON.stringify(rows, undefined, 2)}\n`)
    Fs.writeFileSync(Path.join(folder, "faults.md"), `${text}\n`)
    process.stdout.write(`\n${text}\n`)
  }
}
