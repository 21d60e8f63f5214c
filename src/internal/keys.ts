/**
 * Keys between the port's strings and etcd's bytes. Bytes that are not UTF-8 become the lone surrogates U+DC80..U+DCFF (as in
 * PEP 383), so every key of a shared cluster survives bytes -> string -> bytes.
 */
import type { KeyRange } from "../Etcd.ts"

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

const replacement = 0xfffd

/** Other lone surrogates, which no key of etcd decodes to, become U+FFFD. */
export const encodeKey = (key: string): Uint8Array => key.isWellFormed() ? encoder.encode(key) : encodeEscaped(key)

export const decodeKey = (bytes: Uint8Array): string => {
  const text = decoder.decode(bytes)
  return text.includes("\ufffd") ? decodeEscaped(bytes) : text
}

/** The least key that does not start with `prefix`; the single byte 0, etcd's "no end", where there is none. */
export const prefixEnd = (prefix: Uint8Array): Uint8Array => {
  for (let last = prefix.length - 1; last >= 0; last--) {
    const byte = prefix[last] ?? 0
    if (byte < 0xff) {
      const end = prefix.slice(0, last + 1)
      end[last] = byte + 1
      return end
    }
  }
  return noEnd
}

const noEnd = Uint8Array.of(0)
/** Where a range without keys can start: an end of one zero byte would be none. */
const afterZero = Uint8Array.of(1)

/**
 * A range as etcd's `key` and `range_end`. One key has no end, and it must not be sent: etcd reads an end that is absent as "one
 * key", but one that is sent empty as "no end". An empty start is the least possible key. A range that ends before it
 * starts ends at its start: etcd reads such ones in more than one way.
 */
export const encodeRange = (range: KeyRange): { readonly key: Uint8Array; readonly rangeEnd?: Uint8Array } => {
  if ("key" in range) return { key: encodeKey(range.key) }
  if ("prefix" in range) {
    const prefix = encodeKey(range.prefix)
    return { key: prefix.length === 0 ? noEnd : prefix, rangeEnd: prefixEnd(prefix) }
  }
  const key = range.from === "" ? noEnd : encodeKey(range.from)
  const to = encodeKey(range.to)
  if (compareBytes(key, to) < 0) return { key, rangeEnd: to }
  const start = compareBytes(key, noEnd) === 0 ? afterZero : key
  return { key: start, rangeEnd: start }
}

/** Orders keys as etcd does: by their bytes. The order of JavaScript's strings differs above U+D7FF. */
export const compareBytes = (a: Uint8Array, b: Uint8Array): number => {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference
  }
  return a.length - b.length
}

const encodeEscaped = (key: string): Uint8Array => {
  const out: Array<number> = []
  for (const char of key) {
    const point = char.codePointAt(0) ?? replacement
    if (point >= 0xdc80 && point <= 0xdcff) out.push(point - 0xdc00)
    else out.push(...encoder.encode(char))
  }
  return Uint8Array.from(out)
}

const decodeEscaped = (bytes: Uint8Array): string => {
  let out = ""
  let at = 0
  while (at < bytes.length) {
    const length = sequenceLength(bytes, at)
    out += length === 0
      ? String.fromCharCode(0xdc00 + (bytes[at] ?? 0))
      : decoder.decode(bytes.subarray(at, at + length))
    at += Math.max(1, length)
  }
  return out
}

/** The length of the well-formed UTF-8 sequence that starts here (Unicode's table 3-7), 0 when none does. */
const sequenceLength = (bytes: Uint8Array, at: number): number => {
  const lead = bytes[at] ?? 0
  if (lead < 0x80) return 1
  const length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
  for (let i = 1; i < length; i++) {
    const byte = bytes[at + i] ?? 0
    if (byte < (i === 1 ? low : 0x80) || byte > (i === 1 ? high : 0xbf)) return 0
  }
  return length
}
