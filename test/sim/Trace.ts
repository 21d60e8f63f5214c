/**
 * What happened in a run, in order: what the checkers judge, what a failure prints, and what must be the same for the same seed.
 */

export interface Entry {
  /** Nanoseconds of the world. */
  readonly at: number
  /** Who: a process, `etcd` or `operator`. */
  readonly who: string
  readonly what: string
  readonly detail: string
}

export class Trace {
  readonly entries: Array<Entry> = []
  private readonly keep: boolean
  private a = 0x811c9dc5
  private b = 0x1b873593
  private count = 0

  constructor(keep: boolean) {
    this.keep = keep
  }

  add(at: number, who: string, what: string, detail: string): void {
    this.count++
    this.mixNumber(at)
    this.mix(who)
    this.mix(what)
    this.mix(detail)
    if (this.keep) this.entries.push({ at, who, what, detail })
  }

  /** Of every entry so far. */
  get hash(): string {
    return `${hex(this.a)}${hex(this.b)}-${this.count}`
  }

  toString(): string {
    return this.entries.map(({ at, detail, what, who }) =>
      `${(at / 1e6).toFixed(3).padStart(11)} ms  ${who.padEnd(8)} ${what.padEnd(10)} ${detail}`
    ).join("\n")
  }

  // Two FNV-1a of different starts, one over the text and one over its reverse roles of shift and product.
  private mix(text: string): void {
    for (let index = 0; index < text.length; index++) {
      const code = text.charCodeAt(index)
      this.a = Math.imul(this.a ^ code, 0x01000193)
      this.b = Math.imul((this.b << 5 | this.b >>> 27) ^ code, 0x9e3779b1)
    }
    this.a = Math.imul(this.a ^ 0xff, 0x01000193)
  }

  private mixNumber(value: number): void {
    const low = value % 2 ** 32 | 0
    const high = Math.floor(value / 2 ** 32) | 0
    this.a = Math.imul(Math.imul(this.a ^ low, 0x01000193) ^ high, 0x01000193)
    this.b = Math.imul(Math.imul(this.b ^ low, 0x9e3779b1) ^ high, 0x85ebca6b)
  }
}

const hex = (value: number): string => (value >>> 0).toString(16).padStart(8, "0")
