/**
 * Every change of a store, over connections that are cut at random: counted at the port and at the services.
 *
 * The writer has a connection of its own that nothing happens to, so what it was told is what happened.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import {
  ConfigCenter,
  type ConfigEvent,
  type Etcd,
  layerEtcd,
  Operation,
  Registry,
  type ServiceEvent
} from "../../src/index.ts"
import { type EtcdVersion, makeEtcdServer } from "../utils/EtcdServer.ts"
import { connect } from "../utils/live.ts"
import { makeProxy } from "../utils/Proxy.ts"
import { type Account, account, isClean, sum, words } from "./accounting.ts"
import { type Chance, chance } from "./random.ts"
import { record } from "./report.ts"

const cutsWanted = Number(process.env["FAULTS_CUTS"] ?? 500)
const eventsWanted = cutsWanted * 200

const Value = Schema.Struct({ n: Schema.Int, pad: Schema.String })

/** One change of one key. `n` tells its value from all others; none for a deletion. `before` is the value it replaced. */
interface Happened {
  readonly revision: bigint
  readonly key: string
  readonly n: number | undefined
  readonly before: number | undefined
}

/** etcd's words for it, those of the configuration, and those of the registry. */
const rawId = ({ key, n, revision }: Happened) => `${revision} ${key} ${n ?? "deleted"}`
const fullId = (event: Happened) => `${rawId(event)} after ${event.before ?? "nothing"}`

// -----------------------------------------------------------------------------
// The writer
// -----------------------------------------------------------------------------

const configKeys = Array.from({ length: 120 }, (_, i) => `/config/load/${String(i).padStart(3, "0")}`)
const instanceKeys = Array.from({ length: 20 }, (_, i) => `/services/load/i${i}`)

/** Above half of what one answer may hold, so that with the values before it is split in the middle of a revision. */
const maxRequestBytes = 700_000
const largeValue = "x".repeat(5500)

const makeWriter = (etcd: Etcd["Service"], { int, is }: Chance) => {
  const history: Array<Happened> = []
  const present = new Map<string, number>()
  let n = 0
  const valueOf = (key: string, pad: string) =>
    key.startsWith("/config/")
      ? JSON.stringify({ n, pad })
      : JSON.stringify({
        id: key.slice("/services/load/".length),
        name: "load",
        address: "127.0.0.1",
        port: 1,
        metadata: { n: String(n) }
      })
  const write = Effect.fnUntraced(function*(keys: ReadonlyArray<string>, pad: string, deletes: number) {
    const done: Array<Omit<Happened, "revision">> = []
    const success = keys.map((key) => {
      const before = present.get(key)
      if (before !== undefined && is(deletes)) {
        present.delete(key)
        done.push({ key, n: undefined, before })
        return Operation.delete(key)
      }
      n++
      present.set(key, n)
      done.push({ key, n, before })
      return Operation.put(key, valueOf(key, pad))
    })
    const { revision } = yield* etcd.txn({ success })
    for (const one of done) history.push({ revision, ...one })
    return revision
  })
  return {
    history,
    large: Effect.suspend(() => write(configKeys, largeValue, 0)),
    small: Effect.suspend(() => {
      const pick = (keys: ReadonlyArray<string>, count: number) => {
        const start = int(0, keys.length - 1)
        return Array.from({ length: count }, (_, i) => keys[(start + i * 7) % keys.length] ?? "")
      }
      return write([...pick(configKeys, int(1, 110)), ...pick(instanceKeys, int(0, 10))], "x".repeat(int(0, 100)), 0.2)
    })
  }
}

// -----------------------------------------------------------------------------
// The watchers
// -----------------------------------------------------------------------------

interface Watcher {
  readonly name: string
  readonly seen: Array<string>
  /** What it should have seen of all that happened. */
  readonly expected: (history: ReadonlyArray<Happened>) => ReadonlyArray<string>
  /** Of the port: how often it was opened. */
  opened: number
  /** Whether anything has come since it was opened. */
  fresh: boolean
  last: bigint
  synced: number
}

const makeWatcher = (name: string, expected: Watcher["expected"]): Watcher => ({
  name,
  expected,
  seen: [],
  opened: 0,
  fresh: false,
  last: 0n,
  synced: 0
})

const numberIn = (value: Uint8Array | undefined): number | undefined => {
  const [, found] = value === undefined
    ? []
    : /"n":"?(\d+)/.exec(new TextDecoder().decode(value.subarray(0, 200))) ?? []
  return found === undefined ? undefined : Number(found)
}

const watchPort = Effect.fnUntraced(function*(
  etcd: Etcd["Service"],
  name: string,
  startRevision: bigint,
  previousKv: boolean
) {
  const id = previousKv ? fullId : rawId
  const watcher = makeWatcher(name, (history) => history.filter(({ revision }) => revision >= startRevision).map(id))
  yield* etcd.watch({ prefix: "/", startRevision, previousKv }).pipe(
    Stream.runForEach((item) =>
      Effect.sync(() => {
        if (item._tag === "Opened") {
          watcher.opened++
          watcher.fresh = true
          return
        }
        watcher.fresh = false
        for (const event of item.events) {
          const [key, revision] = event._tag === "Put"
            ? [event.kv.key, event.kv.modRevision]
            : [event.key, event.modRevision]
          const n = event._tag === "Put" ? numberIn(event.kv.value) : undefined
          watcher.seen.push(id({ revision, key, n, before: numberIn(event.previous?.value) }))
        }
        watcher.last = item.revision
      })
    ),
    Effect.forkScoped
  )
  return watcher
})

/** The state at a revision, in the order in which a consumer is told, then what came after. */
const stateAndChanges = (history: ReadonlyArray<Happened>, at: bigint) => {
  const state = new Map<string, Happened>()
  for (const event of history) {
    if (event.revision > at) break
    if (event.n === undefined) state.delete(event.key)
    else state.set(event.key, event)
  }
  const entries = [...state.values()].sort((a, b) =>
    a.revision === b.revision ? (a.key < b.key ? -1 : 1) : a.revision < b.revision ? -1 : 1
  )
  return [
    ...entries.map((event) => fullId({ ...event, before: undefined })),
    ...history.filter(({ revision }) => revision > at).map(fullId)
  ]
}

/** Writes down what a service tells. It knows what was before each change from the moment it was synced. */
const follow = Effect.fnUntraced(function*<E>(
  name: string,
  prefix: string,
  stream: Stream.Stream<Happened | bigint, E>,
  options: { readonly from?: bigint | undefined; readonly each?: Effect.Effect<void> | undefined } = {}
) {
  let start = options.from
  const watcher = makeWatcher(name, (history) => {
    const mine = history.filter(({ key }) => key.startsWith(prefix))
    return options.from === undefined
      ? stateAndChanges(mine, start ?? 0n)
      : mine.filter(({ revision }) => revision > (start ?? 0n)).map(fullId)
  })
  yield* stream.pipe(
    Stream.runForEach((event) =>
      Effect.suspend(() => {
        if (typeof event === "bigint") {
          watcher.synced++
          start ??= event
          watcher.last = event
          return Effect.void
        }
        watcher.seen.push(fullId(event))
        watcher.last = event.revision
        return options.each ?? Effect.void
      })
    ),
    Effect.forkScoped
  )
  return watcher
})

const configEvents = (event: ConfigEvent<typeof Value.Type>): Happened | bigint => {
  if (event._tag === "Synced") return event.version
  if (event._tag === "Invalid") throw event.error
  return {
    revision: event.version,
    key: `/config/${event.key}`,
    n: event._tag === "Put" ? event.value.n : undefined,
    before: event.previous?.n
  }
}

const serviceEvents = (event: ServiceEvent): Happened | bigint => {
  if (event._tag === "Synced") return event.revision
  const n = Number(event.instance.metadata["n"])
  return {
    revision: event.revision,
    key: `/services/load/${event.instance.id}`,
    n: event._tag === "Put" ? n : undefined,
    before: event._tag === "Delete"
      ? n
      : event.previous === undefined
      ? undefined
      : Number(event.previous.metadata["n"])
  }
}

const until = (holds: () => boolean, what: string, limit: `${number} seconds`) =>
  Effect.sync(holds).pipe(
    Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("2 millis") }),
    Effect.timeoutOrElse({ duration: limit, orElse: () => Effect.die(new Error(`it never came to: ${what}`)) })
  )

// -----------------------------------------------------------------------------
// The run
// -----------------------------------------------------------------------------

const run = Effect.fnUntraced(function*(version: EtcdVersion) {
  const random = chance(`watches on ${version}`)
  const server = yield* makeEtcdServer({ version, args: [`--max-request-bytes=${maxRequestBytes}`] })
  const proxy = yield* makeProxy({ port: server.port })
  const writer = makeWriter(yield* connect({ endpoints: server.endpoint }), random)
  const ports = yield* Effect.forEach([1, 2], () => connect({ endpoints: proxy.endpoint }))
  const services = yield* Effect.forEach(
    [1, 2],
    () => Layer.build(Layer.fresh(layerEtcd({ endpoints: proxy.endpoint })))
  )
  const [one, other] = [ports[0] ?? ports[1], ports[1]]
  const [near, far] = services
  if (one === undefined || other === undefined || near === undefined || far === undefined) return assert.fail()
  const config = (context: typeof near, options?: { readonly from: bigint }) =>
    Stream.map(Context.get(context, ConfigCenter).watchPrefix("load", Value, options), configEvents)
  const registry = (context: typeof near, options?: { readonly from: bigint }) =>
    Stream.map(Context.get(context, Registry).watch("load", options), serviceEvents)

  const { revision } = yield* one.range({ key: "/" })
  const first = yield* watchPort(one, "port", revision + 1n, false)
  const second = yield* watchPort(other, "port, with previous values", revision + 1n, true)
  let behind = 0
  const written = () => writer.history.at(-1)?.revision ?? 0n
  const watchers: Array<Watcher> = [
    first,
    second,
    yield* follow("config", "/config/", config(near)),
    yield* follow("registry", "/services/", registry(near)),
    yield* follow("registry, another client", "/services/", registry(far)),
    // Stands still for a second after each 3,000 events until the writer is done: it falls behind what is buffered for it.
    yield* follow("config, slow", "/config/", config(far), {
      each: Effect.suspend(() => behind >= 0 && ++behind % 3000 === 0 ? Effect.sleep("1 second") : Effect.void)
    })
  ]
  yield* until(() => watchers.every(({ opened, synced }) => opened + synced > 0), "all watch", "10 seconds")

  const cuts = { total: 0, beforeFirst: 0, between: 0, inLarge: 0 }
  /** How often the port's watches had been opened when the last cut was made. */
  let opened = [0, 0]
  const counted = Effect.fnUntraced(function*(cut: Effect.Effect<boolean>, largeRevision?: bigint) {
    if (!(yield* cut)) return
    cuts.total++
    if (largeRevision !== undefined && second.last < largeRevision) cuts.inLarge++
    else if (first.fresh || second.fresh) cuts.beforeFirst++
    else cuts.between++
  })
  const note = Effect.sync(() => {
    opened = [first.opened, second.opened]
    return true
  })
  const cut = Effect.andThen(proxy.cut, note)
  const cutAfter = (bytes: number) =>
    Effect.timeoutOrElse(Effect.andThen(proxy.cutAfter(bytes), note), {
      duration: "1 second",
      orElse: () => Effect.succeed(false)
    })
  const confirmed = until(
    () => first.opened > (opened[0] ?? 0) && second.opened > (opened[1] ?? 0),
    "the watches are opened again",
    "20 seconds"
  )

  const caughtUp = until(() => first.last >= written() && second.last >= written(), "the ports catch up", "20 seconds")

  const round = Effect.gen(function*() {
    // Otherwise they are still behind, and are told from the history.
    if (random.is(0.6)) yield* caughtUp
    const writing = yield* Effect.forkChild(
      Effect.forEach(Array.from({ length: random.int(4, 9) }), () => Effect.delay(writer.small, random.int(0, 20)), {
        discard: true
      })
    )
    switch (random.pick(["time", "time", "opening", "opened", "opened", "large"])) {
      case "time":
        yield* Effect.sleep(random.int(0, 60))
        yield* counted(cut)
        break
      case "opening":
        // Then, while the watches are coming back: in the handshake, the confirmation, the first event.
        yield* counted(cut)
        for (let times = random.int(1, 3); times > 0; times--) yield* counted(cutAfter(random.int(1, 1500)))
        break
      case "opened":
        yield* counted(cut)
        for (let times = random.int(1, 3); times > 0; times--) {
          yield* until(() => second.opened > (opened[1] ?? 0), "the watch is confirmed", "20 seconds")
          yield* counted(cut)
        }
        break
      case "large": {
        yield* Fiber.join(writing)
        const large = yield* Effect.forkChild(writer.large, { startImmediately: true })
        if (random.is(0.5)) {
          // As it is told to watches that are open, or from the history.
          const cutting = yield* Effect.forkChild(cutAfter(random.int(1, 2_500_000)), { startImmediately: true })
          yield* counted(Fiber.join(cutting), yield* Fiber.join(large))
        } else {
          const revision = yield* Fiber.join(large)
          yield* counted(cut, revision)
          yield* counted(cutAfter(random.int(1, 5_000_000)), revision)
        }
        break
      }
    }
    yield* Fiber.join(writing)
    yield* confirmed
  })
  let late = false
  while (cuts.total < cutsWanted || writer.history.length < eventsWanted) {
    yield* round
    if (late || cuts.total < cutsWanted / 2) continue
    // Some come in the middle: from the start, from the state as it is then, and from a version that they know.
    late = true
    const from = writer.history[Math.floor(writer.history.length / 3)]?.revision ?? 1n
    watchers.push(
      yield* watchPort(other, "port, from the past", from, false),
      yield* follow("config, come late", "/config/", config(near)),
      yield* follow("config, from a version", "/config/", config(far, { from }), { from }),
      yield* follow("registry, from a revision", "/services/", registry(near, { from }), { from })
    )
  }
  behind = -1
  // Once more both kinds, so that each watcher has a last one.
  const end = yield* writer.small
  const done = (watcher: Watcher) => watcher.expected(writer.history).length <= watcher.seen.length
  yield* until(
    () => watchers.every(({ last, name }) => name.startsWith("registry") || last >= end),
    "all see the end",
    "60 seconds"
  )
    .pipe(Effect.exit)
  yield* until(() => watchers.every(done), "all see everything", "10 seconds").pipe(Effect.exit)
  // What comes twice may come late.
  yield* Effect.sleep("500 millis")

  const accounts = watchers.map((
    { expected, name, seen, synced }
  ): Account & { readonly name: string; readonly synced: number } => ({
    name,
    synced,
    ...account(expected(writer.history), seen)
  }))
  const total = sum(accounts)
  const events = writer.history.length
  record({
    what: `watch events: ${events} in ${new Set(writer.history.map(({ revision }) => revision)).size} revisions over ` +
      `${cuts.total} random cuts, at ${watchers.length} watchers of the port, Registry and ConfigCenter`,
    bar: "0 lost, 0 doubled, 0 out of order",
    measured: `${words(total)} of ${total.expected}; cuts: ${cuts.beforeFirst} before the first event, ` +
      `${cuts.between} between events, ${cuts.inLarge} before the end of a large revision; seed ${random.seed}`,
    ok: isClean(total),
    version
  })
  for (const one of accounts) {
    assert.isTrue(isClean(one), `${one.name}: ${words(one)} (seed ${random.seed})\n${one.examples.join("\n")}`)
    // Nothing was compacted, so nobody may have been helped by a second listing.
    assert.isAtMost(one.synced, 1, one.name)
  }
  assert.isAtLeast(events, eventsWanted)
  assert.isAtLeast(cuts.total, cutsWanted)
  assert.isAtLeast(first.opened, cutsWanted / 3)
  assert.isAtLeast(cuts.beforeFirst, cutsWanted / 20)
  assert.isAtLeast(cuts.between, cutsWanted / 20)
  assert.isAtLeast(cuts.inLarge, cutsWanted / 50)
})

describe("watches over random cuts", () => {
  it.live("lose, double and swap nothing on 3.5", () => run("3.5"), 600_000)
  it.live("lose, double and swap nothing on 3.4", () => run("3.4"), 600_000)
})

describe("the accounting", () => {
  it("finds what is lost, doubled, out of order and invented", () => {
    const count = (seen: string) => words(account([..."abcde"], [...seen]))
    assert.strictEqual(count("abcde"), "0 lost, 0 doubled, 0 out of order")
    assert.strictEqual(count("abde"), "1 lost, 0 doubled, 0 out of order")
    assert.strictEqual(count("abbcde"), "0 lost, 1 doubled, 0 out of order")
    assert.strictEqual(count("acbde"), "0 lost, 0 doubled, 1 out of order")
    assert.strictEqual(count("abcdex"), "0 lost, 0 doubled, 0 out of order, 1 invented")
  })
})
