/**
 * `JSON.parse` that keeps the names of an object apart, and what of JSON TypeScript does not know yet.
 */

// "JSON.parse source text access" and `JSON.rawJSON` are in Node since 21.
export type Reviver = (this: object, key: string, value: unknown, context: { readonly source?: string }) => unknown
const parseWith = JSON.parse as (text: string, reviver?: Reviver) => unknown
export const { isRawJSON, rawJSON } = JSON as typeof JSON & {
  readonly rawJSON: (text: string) => unknown
  readonly isRawJSON: (value: unknown) => boolean
}

/** The last escape in a name, up to the colon. It may match more, never less: the slow way is right for every text. */
const escapeInName = /\\[^][^"\\]*"[ \t\r\n]*:/

/** Each string, so that none is looked for inside of another; a name with its colon. It also matches a string without an end, in linear time. */
const strings = /("[^"\\]*(?:\\[^][^"\\]*)*"?)([ \t\r\n]*:)?/g

/**
 * `JSON.parse`, which throws. V8 takes a name that is written with an escape for another one: in Node 24, 25 and 26 (V8 13.6 to 14.6; not in Node 22)
 * `JSON.parse('{"\\\\":1}'); JSON.parse('{"\\n":1}')` ends in `{ "\\": 1 }`, since it compares the source text with the only name that it has seen
 * in this place before. Names without an escape are right: each one gets such a name while V8 reads. A reviver replaces no object.
 */
export const parseJson = (text: string, reviver?: Reviver): unknown => {
  if (!text.includes("\\") || !escapeInName.test(text)) return parseWith(text, reviver)
  const marks = new Map<string, string>()
  const names = new Map<string, string>()
  const marked = text.replace(strings, (all, literal: string, colon: string | undefined) => {
    if (colon === undefined) return all
    const name = JSON.parse(literal) as string
    // One mark for one name: of equal names the last counts. Not an index, which would be sorted.
    const mark = marks.get(name) ?? `#${marks.size}`
    marks.set(name, mark)
    names.set(mark, name)
    return `"${mark}"${colon}`
  })
  const nameOf = (key: string): string => names.get(key) ?? key
  return parseWith(marked, function(key, value, context) {
    const revived = reviver === undefined ? value : reviver.call(this, nameOf(key), value, context)
    return typeof value !== "object" || value === null || Array.isArray(value)
      ? revived
      // As own properties, `__proto__` too.
      : Object.fromEntries(Object.entries(value).map(([mark, part]) => [nameOf(mark), part]))
  })
}
