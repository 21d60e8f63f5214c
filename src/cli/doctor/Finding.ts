/**
 * What a look at one thing has shown, and what to do about it.
 */

export interface Finding {
  /** What was looked at. */
  readonly check: string
  readonly status: "ok" | "note" | "problem"
  readonly detail: string
  /** What to do; not for what is in order. */
  readonly advice?: string | undefined
}

export const ok = (check: string, detail: string): Finding => ({ check, status: "ok", detail })

/** Worth knowing, and nothing that has to be mended. */
export const note = (check: string, detail: string, advice?: string): Finding => ({
  check,
  status: "note",
  detail,
  advice
})

export const problem = (check: string, detail: string, advice: string): Finding => ({
  check,
  status: "problem",
  detail,
  advice
})
