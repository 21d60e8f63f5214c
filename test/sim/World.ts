/**
 * One etcd and its clients, each a process behind a link, on one time line.
 */
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import type { InvalidOption } from "../../src/Errors.ts"
import { Etcd } from "../../src/Etcd.ts"
import { makeEtcd } from "../../src/internal/client/Client.ts"
import type { Snapshot } from "../../src/internal/memory/Store.ts"
import type { Transport } from "../../src/internal/Transport.ts"
import type { Lock } from "../../src/Lock.ts"
import { fair, Link, type Weather } from "./Link.ts"
import type { Fault, Plan } from "./plan.ts"
import { makeRandom } from "./random.ts"
import { Server } from "./Server.ts"
import { millis, Process, Timeline } from "./Timeline.ts"
import { Trace } from "./Trace.ts"

/** What a deliberately broken client has in place of the right thing. */
export interface Variant {
  readonly transport?: ((transport: Transport) => Transport) | undefined
  /** In place of what gathers requests. */
  readonly batching?: ((transport: Transport) => Effect.Effect<Transport, never, Scope.Scope>) | undefined
  readonly port?: ((etcd: Etcd["Service"], transport: Transport) => Etcd["Service"]) | undefined
  readonly lock?: Layer.Layer<Lock, InvalidOption, Etcd> | undefined
}

export interface WorldOptions {
  readonly seed: number
  readonly plan: Plan<unknown>
  readonly variant?: Variant | undefined
  /** Keeps what happened, to be printed. */
  readonly keep?: boolean | undefined
}

export const requestTimeout = Duration.seconds(2)

const retry = Schedule.max([Schedule.exponential("50 millis"), Schedule.recurs(4)]).pipe(Schedule.jittered)

/** What has gone wrong: the property that does not hold, and how. */
export interface Violation {
  readonly property: string
  readonly detail: string
}

export interface Client<Services> {
  readonly index: number
  readonly process: Process
  readonly link: Link
  readonly etcd: Etcd["Service"]
  readonly services: Context.Context<Services>
  readonly close: Effect.Effect<void>
}

export class World {
  readonly timeline: Timeline
  readonly trace: Trace
  readonly server: Server
  readonly violations: Array<Violation> = []
  readonly options: WorldOptions
  private readonly links: Array<Link> = []
  private readonly processes: Array<Process> = []
  private snapshots = new Map<number, Snapshot>()
  private leases = 0n

  constructor(options: WorldOptions) {
    this.options = options
    const { plan, seed } = options
    this.trace = new Trace(options.keep ?? false)
    this.timeline = new Timeline(makeRandom(seed, 1000))
    const rate = plan.rates[plan.clients] ?? 1
    const stands = { ...plan.manners, yields: 0, shuffled: false, stalls: 0 }
    this.server = new Server(
      this.timeline,
      new Process(this.timeline, "etcd", { seed, stream: 1100, rate, manners: stands }),
      this.trace
    )
    plan.faults.forEach((fault) => this.expect(fault))
  }

  get now(): number {
    return this.timeline.now
  }

  record(who: string, what: string, detail: string): void {
    this.trace.add(this.timeline.now, who, what, detail)
  }

  violate(property: string, detail: string): void {
    if (this.violations.length < 10) this.violations.push({ property, detail })
    this.record("checker", "VIOLATION", `${property}: ${detail}`)
  }

  /** A process with the services of a layer, on a port of its own. */
  client<Services>(
    index: number,
    layer: Layer.Layer<Services, InvalidOption, Etcd>,
    ready: (client: Client<Services>) => void
  ): void {
    const { plan, seed, variant } = this.options
    const process = new Process(this.timeline, `c${index}`, {
      seed,
      stream: 1200 + index,
      rate: plan.rates[index] ?? 1,
      manners: plan.manners
    })
    const link = new Link({
      timeline: this.timeline,
      process,
      server: this.server,
      random: makeRandom(seed, 5000 + index),
      trace: this.trace,
      timeout: requestTimeout
    })
    this.processes[index] = process
    this.links[index] = link
    const build = Effect.gen({ self: this }, function*() {
      const scope = yield* Scope.make()
      const sent = variant?.transport?.(link.transport) ?? link.transport
      const transport = yield* Scope.provide(variant?.batching?.(sent) ?? Effect.succeed(sent), scope)
      const port = yield* makeEtcd(
        transport,
        { retry, timeout: requestTimeout, namespace: "", batching: variant?.batching === undefined ? "all" : "off" },
        () => this.newLease(index)
      ).pipe(Scope.provide(scope))
      const etcd = variant?.port?.(port, transport) ?? port
      const services = yield* Layer.build(layer.pipe(Layer.provide(Layer.succeed(Etcd, etcd)))).pipe(
        Scope.provide(scope)
      )
      ready({ index, process, link, etcd, services, close: Scope.close(scope, Exit.void) })
    })
    process.fork(build, { onExit: (exit) => this.expectSuccess(process, "start", exit) })
  }

  /** Reports what nobody has foreseen. */
  expectSuccess(process: Process, what: string, exit: Exit.Exit<unknown, unknown>): void {
    if (Exit.isFailure(exit)) {
      this.violate("no unexpected failure", `${what} of ${process.name} failed: ${describe(exit)}`)
    }
  }

  private newLease(client: number): bigint {
    return (++this.leases << 8n) + BigInt(client + 1)
  }

  // ---------------------------------------------------------------------------
  // Faults
  // ---------------------------------------------------------------------------

  private expect(fault: Fault): void {
    if (fault.fault === "restore") {
      this.timeline.at(
        fault.since * millis,
        () => this.server.step("operator", () => this.snapshots.set(fault.since, this.server.store.snapshot()))
      )
    }
    this.timeline.at(fault.at * millis, () => this.strike(fault))
  }

  private strike(fault: Fault): void {
    const { at: _, ...what } = fault
    this.record("fault", fault.fault, JSON.stringify(what))
    const link = "client" in fault ? this.links[fault.client] : undefined
    const process = "client" in fault ? this.processes[fault.client] : undefined
    const later = (run: () => void) =>
      this.timeline.after(("for" in fault ? fault.for : 0) * millis, () => {
        this.record("fault", "end", JSON.stringify(what))
        run()
      })
    const { server } = this
    const weather = (change: Partial<Weather>) => {
      if (link === undefined) return
      link.weather = { ...link.weather, ...change }
      later(() => {
        link.weather = fair
      })
    }
    switch (fault.fault) {
      case "partition":
        link?.partition()
        later(() => link?.heal())
        return
      case "refuse":
        link?.refuse()
        later(() => link?.accept())
        return
      case "pause":
        process?.pause()
        later(() => process?.resume())
        return
      case "suspend":
        process?.suspend()
        later(() => process?.wake())
        return
      case "lose":
        return weather(fault.way === "request" ? { requestLoss: 0.7 } : { responseLoss: 0.7 })
      case "slow":
        return weather({ slowest: fault.slowest })
      case "late":
        return weather({ late: 0.4 })
      case "cut":
        return link?.cut()
      case "degrade":
        weather({ slowAnswers: 500 })
        this.timeline.after(1500 * millis, () => link?.partition())
        this.timeline.after(fault.for * millis, () => link?.heal())
        return
      case "flap":
        for (let after = 0; after < fault.for; after += fault.every) {
          this.timeline.after(after * millis, () => link?.cut())
        }
        return
      case "crash":
        process?.crash()
        return link?.cut()
      case "expireToken":
        return link?.expireToken()
      case "freeze":
        server.process.pause()
        later(() => server.process.resume())
        return
      case "restart":
        return server.step("operator", () => server.restart())
      case "compact":
        return server.step("operator", () => void server.store.compact(server.store.revision - BigInt(fault.keep)))
      case "revoke":
        return server.step("operator", () => {
          const ids = [...server.store.snapshot().leases.keys()]
          const id = ids[fault.index % ids.length]
          if (id !== undefined) server.store.leaseRevoke(id)
        })
      case "delete":
        return server.step("operator", () => {
          const keys = this.keys()
          const key = keys[fault.index % keys.length]
          if (key !== undefined) server.delete(key)
        })
      case "restore":
        return server.step("operator", () => {
          const snapshot = this.snapshots.get(fault.since)
          if (snapshot !== undefined) server.restore(snapshot)
        })
    }
  }

  keys(): ReadonlyArray<string> {
    const answer = this.server.store.range({ prefix: "", keysOnly: true })
    return answer._tag === "Success" ? answer.success.kvs.map((kv) => kv.key) : []
  }

  // ---------------------------------------------------------------------------
  // The end
  // ---------------------------------------------------------------------------

  /** How late a task of a process has run, at most, in milliseconds. */
  lateness(client: number): number {
    return (this.processes[client]?.lateness ?? 0) / millis
  }

  isCrashed(client: number): boolean {
    return this.processes[client]?.crashed ?? true
  }

  /** Closes the clients one after the other's request, and looks at what is left of them. */
  finish(clients: ReadonlyArray<Client<never>>): void {
    let open = 0
    for (const { close, process } of clients) {
      if (process.crashed) continue
      open++
      process.fork(close, { onExit: () => open-- })
    }
    this.timeline.run(this.now + 20_000 * millis, () => open === 0)
    if (open > 0) this.violate("closing ends", `${open} clients did not close`)
    // What is still under way, and the leases of those who crashed.
    this.timeline.run(this.now + 20_000 * millis, () => false)
    for (const { process } of clients) {
      if (process.crashed) continue
      if (process.fibers !== 0) this.violate("no leaked fiber", `${process.name} has ${process.fibers}`)
      if (process.timers !== 0) this.violate("no leaked timer", `${process.name} has ${process.timers}`)
    }
    const leases = this.server.store.snapshot().leases.size
    if (leases > 0) this.violate("no leaked lease", `${leases} are left`)
    if (this.server.openWatches > 0) this.violate("no leaked watch", `${this.server.openWatches} are left`)
  }
}

export const describe = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit) ? "success" : exit.cause.reasons.map((reason) => {
    switch (reason._tag) {
      case "Fail":
        return String(reason.error)
      case "Die":
        return reason.defect instanceof Error ? `${reason.defect.stack}` : `defect ${String(reason.defect)}`
      case "Interrupt":
        return "interrupted"
    }
  }).join("; ")
