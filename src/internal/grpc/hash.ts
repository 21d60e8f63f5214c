/**
 * 32 bits that spread well: not for secrets, but the same in every process.
 */

/** Every bit of the input changes every bit of the result with about even odds (the finaliser of MurmurHash3). */
export const mix = (value: number): number => {
  let bits = value | 0
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}

/** Of the UTF-16 units of a text (FNV-1a, mixed). */
export const hash = (text: string): number => {
  let bits = 0x811c_9dc5
  for (let index = 0; index < text.length; index++) bits = Math.imul(bits ^ text.charCodeAt(index), 0x0100_0193)
  return mix(bits)
}

/** A sequence that looks random. */
export const makeRandom = (seed: number): () => number => {
  let state = seed
  return () => mix(state = (state + 0x9e37_79b9) | 0)
}
