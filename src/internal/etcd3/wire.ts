/**
 * The wire format of Protocol Buffers: numbers of up to 64 bits, and what has a length. Its library first lists what is to be written,
 * and reads an int64 as an object: for requests and answers that are mostly small fields, that took most of the time.
 */

/** int64 as its two halves. */
const halves = new DataView(new ArrayBuffer(8))

const isNumber = 0
const isFixed64 = 1
const isLong = 2
const isFixed32 = 5

/** What one message usually needs. */
const usual = 1 << 14

/** Of a longer text, that it is ASCII is not looked for. */
const short = 128

/**
 * Writes from the end to the beginning: so what a message consists of is there, and its length known, when the length is written. The
 * fields of a message are given last to first.
 */
export class Writer {
  #bytes = Buffer.allocUnsafeSlow(usual)
  #at = usual

  /** Anew: of what was left by a message that could not be written, nothing counts. */
  start(): void {
    this.#at = this.#bytes.length
  }

  finish(): Buffer {
    const message = this.#bytes.subarray(this.#at)
    if (this.#bytes.length === usual) return Buffer.from(message)
    this.#bytes = Buffer.allocUnsafeSlow(usual)
    return message
  }

  /** How much is written: where a message ends that is closed later. */
  get length(): number {
    return this.#bytes.length - this.#at
  }

  /** All that was written since the length was `end` is a message. */
  close(field: number, end: number): void {
    this.#varint(this.length - end)
    this.#tag(field, isLong)
  }

  int64(field: number, value: bigint): void {
    halves.setBigInt64(0, value)
    this.#varint(halves.getUint32(4), halves.getUint32(0))
    this.#tag(field, isNumber)
  }

  /** A whole number, as an int64; one that is not finite is 0. */
  int(field: number, value: number): void {
    this.#varint(value >>> 0, Math.floor(value / 2 ** 32) >>> 0)
    this.#tag(field, isNumber)
  }

  bool(field: number, value: boolean): void {
    this.int(field, value ? 1 : 0)
  }

  bytes(field: number, value: Uint8Array): void {
    this.#reserve(value.length)
    this.#at -= value.length
    this.#bytes.set(value, this.#at)
    this.#varint(value.length)
    this.#tag(field, isLong)
  }

  text(field: number, value: string): void {
    const end = this.length
    this.#utf8(value)
    this.close(field, end)
  }

  /** The least text that does not start with this one, which is not empty: no byte of UTF-8 is the greatest one. */
  textEnd(field: number, value: string): void {
    const end = this.length
    this.#utf8(value)
    const last = this.#bytes.length - end - 1
    this.#bytes[last] = (this.#bytes[last] ?? 0) + 1
    this.close(field, end)
  }

  #utf8(value: string): void {
    if (value.length <= short && this.#ascii(value)) return
    const length = Buffer.byteLength(value)
    this.#reserve(length)
    this.#at -= length
    this.#bytes.write(value, this.#at, length)
  }

  #ascii(value: string): boolean {
    this.#reserve(value.length)
    const start = this.#at - value.length
    for (let i = 0; i < value.length; i++) {
      const code = value.charCodeAt(i)
      if (code > 127) return false
      this.#bytes[start + i] = code
    }
    this.#at = start
    return true
  }

  #tag(field: number, type: number): void {
    this.#varint(field << 3 | type)
  }

  #varint(low: number, high = 0): void {
    this.#reserve(10)
    this.#groups(low, high)
  }

  /** Seven bits a byte, the last ones first. */
  #groups(low: number, high: number): void {
    const more = high !== 0 || low > 127
    if (more) this.#groups((low >>> 7 | high << 25) >>> 0, high >>> 7)
    this.#bytes[--this.#at] = more ? low & 127 | 128 : low
  }

  #reserve(length: number): void {
    if (this.#at >= length) return
    const { length: written } = this
    const larger = Buffer.allocUnsafeSlow(2 * (this.#bytes.length + length))
    this.#at = larger.length - written
    larger.set(this.#bytes.subarray(this.#bytes.length - written), this.#at)
    this.#bytes = larger
  }
}

const malformed = () => new RangeError("a field reaches beyond the end of its message")

/**
 * Reads one message, and those in it: `while (reader.next())`, with `field` the number of each. Each field is read, or skipped.
 */
export class Reader {
  readonly #bytes: Buffer
  #at = 0
  /** Of the message that is read. */
  #end: number
  #type = isNumber
  #high = 0
  field = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.#end = bytes.length
  }

  next(): boolean {
    if (this.#at >= this.#end) return false
    const tag = this.#varint()
    this.field = tag >>> 3
    this.#type = tag & 7
    return true
  }

  skip(): void {
    switch (this.#type) {
      case isNumber:
        this.#varint()
        return
      case isFixed64:
        return this.#pass(8)
      case isLong:
        return this.#pass(this.#varint())
      case isFixed32:
        return this.#pass(4)
      default:
        throw new RangeError(`a field of type ${this.#type}`)
    }
  }

  message<A>(read: (reader: this) => A): A {
    const length = this.#varint()
    const outer = this.#end
    const end = this.#at + length
    if (end > outer) throw malformed()
    this.#end = end
    const message = read(this)
    this.#end = outer
    return message
  }

  int64(): bigint {
    halves.setUint32(4, this.#varint())
    halves.setUint32(0, this.#high)
    return halves.getBigInt64(0)
  }

  /** An int64 that is no greater than a safe integer. */
  int(): number {
    return this.#varint() + (this.#high | 0) * 2 ** 32
  }

  bool(): boolean {
    return this.#varint() !== 0 || this.#high !== 0
  }

  /** A view. */
  bytes(): Buffer {
    const length = this.#varint()
    this.#pass(length)
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  /** As UTF-8, without a view of its bytes; those that may be none, `odd` reads. */
  text(odd: (bytes: Buffer) => string): string {
    const length = this.#varint()
    this.#pass(length)
    const start = this.#at - length
    const text = this.#bytes.toString("utf8", start, this.#at)
    return text.includes("\ufffd") ? odd(this.#bytes.subarray(start, this.#at)) : text
  }

  #pass(length: number): void {
    if (length > this.#end - this.#at) throw malformed()
    this.#at += length
  }

  /** The low half; the high one is left in its field. */
  #varint(): number {
    let low = 0
    let high = 0
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#at >= this.#end) throw malformed()
      const byte = this.#bytes[this.#at++] ?? 0
      if (shift < 32) low |= (byte & 127) << shift
      if (shift === 28) high = (byte & 127) >> 4
      else if (shift > 28) high |= (byte & 127) << (shift - 32)
      if (byte < 128) {
        this.#high = high >>> 0
        return low >>> 0
      }
    }
    throw new RangeError("a number of more than 64 bits")
  }
}
