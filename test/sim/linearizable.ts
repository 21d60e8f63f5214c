/**
 * Is a history of concurrent operations on configuration values linearisable: does an order of them exist that agrees with real time (what had
 * returned before another began comes first) and in which a register with versions gives every answer that was given?
 *
 * The search is that of Wing and Gong with the memory of Lowe: operations are taken in one at a time, and a set of operations that leads
 * nowhere from a state is never tried again. Keys are independent, so each is searched alone. What is known of etcd keeps the search short:
 *
 * - versions grow, so the acknowledged writes of a key have only one order;
 * - an answer that only looks, and is right now, can be taken in now: no later place could be better;
 * - a write of unknown fate happens only where somebody notices; if it is overwritten unseen, it may as well never have happened.
 */

import { makeEvents } from "./historyEvents.ts"

/** Compared by `===`. */
export type Value = string | number | boolean | null

export type Call =
  | { readonly _tag: "get" | "delete" }
  | { readonly _tag: "set"; readonly value: Value }
  /** `expected` is `0n` where the key must not exist. */
  | { readonly _tag: "compareAndSet"; readonly expected: bigint; readonly value: Value }
  /** What the last run of the function was given, and what it answered. */
  | { readonly _tag: "update"; readonly from: Value; readonly value: Value }

export type Outcome =
  /** Of a get; without a version where the caller was told none. */
  | { readonly _tag: "Found"; readonly value: Value; readonly version?: bigint | undefined }
  /** Of a get, a delete or an update: there is no value. */
  | { readonly _tag: "Absent" }
  | { readonly _tag: "Written"; readonly version: bigint }
  | { readonly _tag: "Deleted" }
  /** Nothing was written, as the key has this version (`0n`: none). */
  | { readonly _tag: "Conflict"; readonly actual: bigint }
  /** It certainly had and will have no effect, and its caller learned nothing. */
  | { readonly _tag: "Refused" }
  /** It may have taken effect, may do so at any later time, or never. Also of what has not returned. */
  | { readonly _tag: "Ambiguous" }

export interface Operation {
  readonly key: string
  /** Only for whoever reads a report. */
  readonly client: string | number
  readonly call: Call
  readonly outcome: Outcome
  /** Places in the history: whatever has `returned` before another was `invoked` came before it. */
  readonly invoked: number
  readonly returned: number
}

export type Verdict =
  | { readonly _tag: "Linearizable"; readonly steps: number }
  | {
    readonly _tag: "NotLinearizable"
    readonly key: string
    /** The longest order that was found. */
    readonly order: ReadonlyArray<Operation>
    /** What could not follow. */
    readonly stuck: ReadonlyArray<Operation>
  }
  /** The search was given up: no verdict, which nobody may take for a good one. */
  | { readonly _tag: "Undecided"; readonly key: string; readonly steps: number }

/** @param options `maxSteps`: how many operations are taken in, for each key, before it is given up. */
export const checkLinearizable = (
  history: Iterable<Operation>,
  options?: { readonly maxSteps?: number | undefined }
): Verdict => {
  const keys = new Map<string, Array<Operation>>()
  for (const operation of history) {
    const operations = keys.get(operation.key)
    if (operations === undefined) keys.set(operation.key, [operation])
    else operations.push(operation)
  }
  let steps = 0
  for (const [key, operations] of keys) {
    const verdict = search(key, operations.filter(matters), options?.maxSteps ?? 1_000_000)
    if (verdict._tag !== "Linearizable") return verdict
    steps += verdict.steps
  }
  return { _tag: "Linearizable", steps }
}

/** For the message of a failing test. */
export const showVerdict = (verdict: Verdict): string => {
  switch (verdict._tag) {
    case "Linearizable":
      return "linearizable"
    case "Undecided":
      return `${verdict.key}: undecided after ${verdict.steps} steps`
    case "NotLinearizable":
      return [
        `${verdict.key} is not linearizable: after`,
        ...verdict.order.map(showOperation),
        "nothing of this can follow",
        ...verdict.stuck.map(showOperation)
      ].join("\n")
  }
}

const showOperation = ({ call, client, invoked, outcome, returned }: Operation): string => {
  const { _tag: ended, ...told } = outcome
  return `  [${invoked}, ${returned}] ${client}: ${showCall(call)} -> ${ended} ${show(told)}`
}

const showCall = ({ _tag: name, ...given }: Call): string => `${name} ${show(given)}`

const show = (content: object): string =>
  Object.entries(content).map(([name, value]) => `${name}=${typeof value === "string" ? JSON.stringify(value) : value}`)
    .join(" ")

const matters = ({ call, outcome }: Operation): boolean =>
  outcome._tag !== "Refused" && !(outcome._tag === "Ambiguous" && call._tag === "get")

// -----------------------------------------------------------------------------
// The register
// -----------------------------------------------------------------------------

interface State {
  readonly present: boolean
  readonly value: Value
  /** The version; where it is not `exact`, and of an absent value, one that it was after. */
  readonly version: bigint
  readonly exact: boolean
  /** Made by a write of unknown fate, and nobody has noticed yet. */
  readonly unseen: boolean
}

const initial: State = { present: false, value: null, version: 0n, exact: true, unseen: false }

/** The state as somebody sees it who is told a version, or none; `undefined` when it cannot be that one. */
const seen = (
  state: State,
  version: bigint | undefined,
  acknowledged: ReadonlySet<bigint>
): State | undefined => {
  if (version === 0n) return seenAbsent(state)
  if (!state.present) return undefined
  if (version === undefined) return state.unseen ? { ...state, unseen: false } : state
  if (state.exact) return state.version === version ? state : undefined
  // A version that was acknowledged to another write cannot be that of this one.
  return version > state.version && !acknowledged.has(version)
    ? { ...state, version, exact: true, unseen: false }
    : undefined
}

const seenAbsent = (state: State): State | undefined =>
  state.present ? undefined : state.unseen ? { ...state, unseen: false } : state

const written = (state: State | undefined, value: Value, outcome: Outcome): State | undefined => {
  if (state === undefined) return undefined
  if (outcome._tag !== "Written") return { present: true, value, version: state.version, exact: false, unseen: true }
  return outcome.version > state.version
    ? { present: true, value, version: outcome.version, exact: true, unseen: false }
    : undefined
}

const deleted = (state: State, unseen: boolean): State | undefined =>
  state.present ? { ...initial, version: state.version, unseen } : undefined

/** The state after an operation, the same one if nothing changes, or `undefined` where it cannot have ended as it did. */
const apply = (
  state: State,
  { call, outcome }: Operation,
  acknowledged: ReadonlySet<bigint>
): State | undefined => {
  if (outcome._tag === "Absent") return seenAbsent(state)
  if (outcome._tag === "Conflict") {
    return call._tag === "compareAndSet" && call.expected === outcome.actual
      ? undefined
      : seen(state, outcome.actual, acknowledged)
  }
  switch (call._tag) {
    case "get":
      return outcome._tag === "Found" && state.value === outcome.value
        ? seen(state, outcome.version, acknowledged)
        : undefined
    case "set":
      return state.unseen ? undefined : written(state, call.value, outcome)
    case "compareAndSet":
      return written(seen(state, call.expected, acknowledged), call.value, outcome)
    case "update":
      return state.value === call.from
        ? written(seen(state, undefined, acknowledged), call.value, outcome)
        : undefined
    case "delete":
      if (outcome._tag === "Deleted") return deleted(state, false)
      return state.unseen ? undefined : deleted(state, true)
  }
}

// -----------------------------------------------------------------------------
// The search
// -----------------------------------------------------------------------------

const search = (key: string, operations: ReadonlyArray<Operation>, maxSteps: number): Verdict => {
  const order = makeOrder(operations)
  let longest: ReadonlyArray<number> = []
  order.absorb()
  let from = order.first()
  while (!order.isComplete()) {
    if (order.steps() > maxSteps) return { _tag: "Undecided", key, steps: order.steps() }
    if (order.advance(from)) {
      order.absorb()
      from = order.first()
      continue
    }
    if (order.taken.length > longest.length) longest = order.taken.slice()
    const next = order.retreat()
    if (next === undefined) return report(key, operations, longest)
    from = next
  }
  return { _tag: "Linearizable", steps: order.steps() }
}

/** An order that grows and shrinks, and the state after it. */
const makeOrder = (operations: ReadonlyArray<Operation>) => {
  const { acknowledged, rank } = ranks(operations)
  const twin = twins(operations)
  const list = makeEvents(operations)
  const dead = makeMemory(operations.length)
  const isOpen = (i: number): boolean => operations[i]?.outcome._tag !== "Ambiguous"

  let state = initial
  let nextRank = 0
  let open = operations.filter((_, i) => isOpen(i)).length
  let steps = 0
  /** What was taken in, the state before each, and whether nothing else needs to be tried there. */
  const taken: Array<number> = []
  const before: Array<State> = []
  const forced: Array<boolean> = []

  const take = (i: number, to: State, isForced: boolean): void => {
    taken.push(i)
    before.push(state)
    forced.push(isForced)
    list.remove(i)
    dead.flip(i)
    if (rank[i] === nextRank) nextRank++
    if (isOpen(i)) open--
    state = to
    steps++
  }

  const giveBack = (): number | undefined => {
    const i = taken.pop()
    if (i === undefined) return undefined
    state = before.pop() ?? initial
    list.restore(i)
    dead.flip(i)
    if (nextRank > 0 && rank[i] === nextRank - 1) nextRank--
    if (isOpen(i)) open++
    return i
  }

  return {
    taken,
    first: list.first,
    steps: () => steps,
    isComplete: () => open === 0,

    /** Takes in the first operation from `event` on that can come next; `false` when none can. */
    advance: (from: number): boolean => {
      for (let event = from; list.isCall(event); event = list.after(event)) {
        const operation = operations[event]
        if (operation === undefined || (rank[event] ?? -1) > nextRank) continue
        const other = twin[event]
        if (other !== undefined && !dead.includes(other)) continue
        const to = apply(state, operation, acknowledged)
        if (to === undefined || dead.has(event, to)) continue
        take(event, to, false)
        return true
      }
      return false
    },

    /** Takes in all that only look and are right. */
    absorb: (): void => {
      for (let event = list.first(); list.isCall(event);) {
        const operation = operations[event]
        const left = list.before(event)
        if (operation !== undefined && looks(operation) && apply(state, operation, acknowledged) === state) {
          take(event, state, true)
          event = list.after(left)
        } else {
          event = list.after(event)
        }
      }
    },

    /** Gives up the last choice, and answers what is to be tried instead; `undefined` when nothing is left. */
    retreat: (): number | undefined => {
      let back: number | undefined
      do {
        dead.bury(state)
        back = giveBack()
      } while (forced.pop() === true)
      return back === undefined ? undefined : list.after(back)
    }
  }
}

const looks = ({ call, outcome }: Operation): boolean =>
  call._tag === "get" || outcome._tag === "Absent" || outcome._tag === "Conflict"

/** The places of the acknowledged writes in the only order that their versions allow; `-1` for all others. */
const ranks = (operations: ReadonlyArray<Operation>) => {
  const versions = operations.flatMap(({ outcome }, i) =>
    outcome._tag === "Written" ? [{ i, version: outcome.version }] : []
  )
  versions.sort((a, b) => a.version < b.version ? -1 : a.version > b.version ? 1 : 0)
  const rank = new Int32Array(operations.length).fill(-1)
  versions.forEach(({ i }, place) => rank[i] = place)
  return { rank, acknowledged: new Set(versions.map(({ version }) => version)) }
}

/**
 * For each write of unknown fate the one that was begun before it and does the same: whatever the later does, the earlier can do. Values that
 * nobody has read are all the same.
 */
const twins = (operations: ReadonlyArray<Operation>): ReadonlyArray<number | undefined> => {
  const read = new Set<Value>()
  for (const { call, outcome } of operations) {
    if (outcome._tag === "Found") read.add(outcome.value)
    if (call._tag === "update") read.add(call.from)
  }
  const latest = new Map<string, number>()
  const twin: Array<number | undefined> = operations.map(() => undefined)
  operations.map((_, i) => i)
    .sort((a, b) => (operations[a]?.invoked ?? 0) - (operations[b]?.invoked ?? 0))
    .forEach((i) => {
      const operation = operations[i]
      if (operation?.outcome._tag !== "Ambiguous") return
      const { call } = operation
      const isUnread = "value" in call && !read.has(call.value)
      const name = isUnread ? `unread ${showCall({ ...call, value: null })}` : showCall(call)
      twin[i] = latest.get(name)
      latest.set(name, i)
    })
  return twin
}

const report = (key: string, operations: ReadonlyArray<Operation>, longest: ReadonlyArray<number>): Verdict => {
  const rest = operations.filter((_, i) => !longest.includes(i))
  // Only what nothing else had to come before.
  const bound = rest.reduce(
    (least, { outcome, returned }) => outcome._tag === "Ambiguous" ? least : Math.min(least, returned),
    Infinity
  )
  return {
    _tag: "NotLinearizable",
    key,
    order: longest.flatMap((i) => operations[i] ?? []),
    stuck: rest.filter(({ invoked }) => invoked <= bound)
  }
}

/** Which operations are taken in, and from which sets and states nothing was found. Filled on the way back: most histories never need it. */
const makeMemory = (count: number) => {
  const words = new Uint16Array(Math.ceil(count / 16))
  const buried = new Set<string>()
  const flip = (i: number): void => {
    words[i >> 4] = (words[i >> 4] ?? 0) ^ (1 << (i & 15))
  }
  const name = ({ exact, present, unseen, value, version }: State): string =>
    `${String.fromCharCode(...words)}${present ? typeof value : "absent"}${exact}${unseen}${version} ${value}`
  return {
    /** In, or out again. */
    flip,
    includes: (i: number): boolean => ((words[i >> 4] ?? 0) >> (i & 15) & 1) === 1,
    bury: (state: State): void => {
      buried.add(name(state))
    },
    has: (i: number, state: State): boolean => {
      if (buried.size === 0) return false
      flip(i)
      const found = buried.has(name(state))
      flip(i)
      return found
    }
  }
}
