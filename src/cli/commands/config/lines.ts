/**
 * What differs between two values, line by line.
 */
import * as Option from "effect/Option"
import { printable } from "../../Output.ts"
import { many, paint, textOf } from "./text.ts"

interface Line {
  readonly sign: " " | "+" | "-"
  readonly text: string
}

const context = 3
/** Beyond this many comparisons all is shown as replaced. */
const most = 4_000_000

/** The longest lines in common, from the end: `lengths[i][j]` of what is behind i and j. */
const middle = (before: ReadonlyArray<string>, after: ReadonlyArray<string>): ReadonlyArray<Line> => {
  const removed = (text: string): Line => ({ sign: "-", text })
  const added = (text: string): Line => ({ sign: "+", text })
  if (before.length * after.length > most) return [...before.map(removed), ...after.map(added)]
  const lengths = Array.from({ length: before.length + 1 }, () => new Uint32Array(after.length + 1))
  const at = (i: number, j: number): number => lengths[i]?.[j] ?? 0
  for (let i = before.length - 1; i >= 0; i--) {
    const row = lengths[i] ?? new Uint32Array()
    for (let j = after.length - 1; j >= 0; j--) {
      row[j] = before[i] === after[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1))
    }
  }
  const lines: Array<Line> = []
  let i = 0
  let j = 0
  while (i < before.length && j < after.length) {
    if (before[i] === after[j]) {
      lines.push({ sign: " ", text: before[i] ?? "" })
      i++
      j++
    } else if (at(i + 1, j) >= at(i, j + 1)) lines.push(removed(before[i++] ?? ""))
    else lines.push(added(after[j++] ?? ""))
  }
  return [...lines, ...before.slice(i).map(removed), ...after.slice(j).map(added)]
}

export const differingLines = (before: string, after: string): ReadonlyArray<Line> => {
  const old = before.split("\n")
  const now = after.split("\n")
  const shorter = Math.min(old.length, now.length)
  let head = 0
  while (head < shorter && old[head] === now[head]) head++
  let tail = 0
  while (tail < shorter - head && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail++
  const same = (text: string): Line => ({ sign: " ", text })
  return [
    ...old.slice(Math.max(0, head - context), head).map(same),
    ...middle(old.slice(head, old.length - tail), now.slice(head, now.length - tail)),
    ...old.slice(old.length - tail, old.length - tail + context).map(same)
  ]
}

const colors = { "+": "green", "-": "red" } as const

/** For people; each line with two columns for its sign. What is no text is only measured. */
export const showDifference = (
  before: Uint8Array | undefined,
  after: Uint8Array | undefined,
  color: boolean
): ReadonlyArray<string> => {
  const draw = ({ sign, text }: Line) => {
    const line = `${sign} ${printable(text)}`
    return sign === " " ? line : paint(color, colors[sign], line)
  }
  const one = (sign: "+" | "-", bytes: Uint8Array): ReadonlyArray<Line> =>
    Option.match(textOf(bytes), {
      onNone: () => [{ sign, text: `(${many(bytes.length, "byte")}, no text)` }],
      onSome: (text) => text.split("\n").map((text) => ({ sign, text }))
    })
  if (before === undefined) return after === undefined ? [] : one("+", after).map(draw)
  if (after === undefined) return one("-", before).map(draw)
  const texts = Option.all([textOf(before), textOf(after)])
  const lines = Option.match(texts, {
    onNone: () => [...one("-", before), ...one("+", after)],
    onSome: ([before, after]) => differingLines(before, after)
  })
  return lines.map(draw)
}
