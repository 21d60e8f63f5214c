/**
 * The time of a simulated world, and who runs in it.
 *
 * A run is a pure function of its seed, its scenario and the code, and fast, because nothing here belongs to Node: one loop
 * takes the tasks that can run, one after the other, and when there are none it jumps to the next event. Fibers get there
 * through a `Scheduler` of each process, timers through its `Clock`, numbers through its `Random`; so no promise, no timer of
 * Node and no wall clock is between two steps. Whatever could differ between two machines is decided by the seed: which process is
 * next, in which order the fibers of one that can run do so, where a fiber yields, how long a process stands still between two tasks.
 *
 * Each process has a clock of its own rate. A paused process runs nothing: its timers fire late, and what arrives waits.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import { Random as EffectRandom } from "effect/Random"
import * as References from "effect/References"
import * as Scheduler from "effect/Scheduler"
import { effectRandom, makeRandom, type Random } from "./random.ts"

export const millis = 1e6

/** In nanoseconds of the world. */
export interface Timer {
  readonly at: number
  readonly order: number
  run: (() => void) | undefined
}

/** How the processes of a world run. */
export interface Manners {
  /** Fibers that can run do so in any order, not in that in which they became ready. */
  readonly shuffled: boolean
  /** How likely a fiber yields after one of its steps. */
  readonly yields: number
  /** How likely a process stands still after a task, and for how long at most, in milliseconds. */
  readonly stalls: number
  readonly longestStall: number
}

export const mannerly: Manners = { shuffled: false, yields: 0, stalls: 0, longestStall: 0 }

/** A run that does so much in so little time goes in circles. */
const maxTasks = 2_000_000

export class Livelock extends Error {}

export class Timeline {
  now = 0
  tasks = 0
  readonly processes: Array<Process> = []
  /** From then on no process stalls. */
  calmFrom = Infinity
  readonly random: Random
  private readonly heap: Array<Timer> = []
  private order = 0
  private cancelled = 0

  constructor(random: Random) {
    this.random = random
  }

  at(time: number, run: () => void): Timer {
    const timer: Timer = { at: Math.max(time, this.now), order: this.order++, run }
    this.push(timer)
    return timer
  }

  after(delay: number, run: () => void): Timer {
    return this.at(this.now + delay, run)
  }

  cancel(timer: Timer): void {
    if (timer.run === undefined) return
    timer.run = undefined
    // A long run must not carry the timers of every request that was answered in time.
    if (++this.cancelled > 64 && this.cancelled * 2 > this.heap.length) this.sweep()
  }

  /** Until nothing can happen before `end`, or it is enough. */
  run(end: number, enough: () => boolean): void {
    while (!enough()) {
      if (this.runTask()) continue
      const timer = this.heap[0]
      if (timer === undefined || timer.at > end) {
        if (this.now < end) this.now = end
        return
      }
      this.pop()
      const { run } = timer
      if (run === undefined) {
        this.cancelled--
        continue
      }
      this.now = timer.at
      timer.run = undefined
      run()
    }
  }

  private runTask(): boolean {
    let chosen: Process | undefined
    let ready = 0
    for (const process of this.processes) {
      if (!process.isReady) continue
      chosen = process
      ready++
    }
    if (chosen === undefined) return false
    if (++this.tasks > maxTasks) throw new Livelock(`more than ${maxTasks} tasks`)
    if (ready > 1) chosen = this.readyOne(this.random.below(ready))
    chosen?.runTask()
    return true
  }

  private readyOne(index: number): Process | undefined {
    let left = index
    for (const process of this.processes) {
      if (process.isReady && left-- === 0) return process
    }
    return undefined
  }

  private sweep(): void {
    const live = this.heap.filter((timer) => timer.run !== undefined)
    this.heap.length = 0
    this.cancelled = 0
    for (const timer of live) this.push(timer)
  }

  private push(timer: Timer): void {
    const { heap } = this
    let index = heap.push(timer) - 1
    while (index > 0) {
      const above = (index - 1) >> 1
      const parent = heap[above]
      if (parent === undefined || !isBefore(timer, parent)) break
      heap[index] = parent
      index = above
    }
    heap[index] = timer
  }

  private pop(): void {
    const { heap } = this
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    let index = 0
    while (true) {
      let below = 2 * index + 1
      let child = heap[below]
      if (child === undefined) break
      const right = heap[below + 1]
      if (right !== undefined && isBefore(right, child)) {
        child = right
        below++
      }
      if (!isBefore(child, last)) break
      heap[index] = child
      index = below
    }
    heap[index] = last
  }
}

const isBefore = (a: Timer, b: Timer): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

interface Task {
  readonly due: number
  readonly run: () => void
}

export class Process {
  readonly name: string
  readonly random: Random
  readonly clock: Clock.Clock
  readonly context: Context.Context<never>
  crashed = false
  /** How late a task has run, at most: since it was due, in nanoseconds of the world. */
  lateness = 0
  /** Fibers that have started and not ended, timers that somebody waits for. */
  fibers = 0
  timers = 0
  private readonly timeline: Timeline
  private readonly manners: Manners
  private readonly rate: number
  private readonly tasks: Array<Task> = []
  private pauses = 0
  private stalled = false
  // Of the monotonic clock, which stands still while the machine is suspended.
  private suspendedFor = 0
  private suspendedSince: number | undefined

  constructor(timeline: Timeline, name: string, options: {
    readonly seed: number
    readonly stream: number
    /** Seconds of its clock in a second of the world. */
    readonly rate: number
    readonly manners: Manners
  }) {
    this.timeline = timeline
    this.name = name
    this.rate = options.rate
    this.manners = options.manners
    this.random = makeRandom(options.seed, 2 * options.stream)
    this.clock = this.makeClock()
    this.context = Context.empty().pipe(
      Context.add(Clock.Clock, this.clock),
      Context.add(Scheduler.Scheduler, this.makeScheduler()),
      Context.add(EffectRandom, effectRandom(makeRandom(options.seed, 2 * options.stream + 1))),
      Context.add(References.MinimumLogLevel, "None" as const),
      Context.add(References.TracerEnabled, false),
      Context.add(Metric.FiberRuntimeMetrics, {
        recordFiberStart: () => {
          this.fibers++
        },
        recordFiberEnd: () => {
          this.fibers--
        }
      })
    )
    timeline.processes.push(this)
  }

  get isReady(): boolean {
    return this.tasks.length > 0 && this.pauses === 0 && !this.stalled
  }

  /** Something arrives from outside of its fibers. */
  post(run: () => void): void {
    if (!this.crashed) this.tasks.push({ due: this.timeline.now, run })
  }

  fork<A, E>(effect: Effect.Effect<A, E>, told: {
    readonly onStart?: (fiber: Fiber.Fiber<A, E>) => void
    readonly onExit: (exit: Exit.Exit<A, E>) => void
  }): void {
    this.post(() => {
      const fiber = Effect.runForkWith(this.context)(effect)
      told.onStart?.(fiber)
      fiber.addObserver(told.onExit)
    })
  }

  runTask(): void {
    const index = this.manners.shuffled && this.tasks.length > 1 ? this.random.below(this.tasks.length) : 0
    const task = index === 0 ? this.tasks.shift() : this.tasks.splice(index, 1)[0]
    if (task === undefined) return
    this.lateness = Math.max(this.lateness, this.timeline.now - task.due)
    task.run()
    if (
      this.manners.stalls > 0 && this.timeline.now < this.timeline.calmFrom && this.random.chance(this.manners.stalls)
    ) {
      this.stalled = true
      // Mostly short ones.
      const length = this.manners.longestStall * this.random.next() ** 3
      this.timeline.after(Math.floor(length * millis), () => {
        this.stalled = false
      })
    }
  }

  pause(): void {
    this.pauses++
  }

  resume(): void {
    this.pauses--
  }

  /** As a pause, and the monotonic clock stands still with it. */
  suspend(): void {
    this.pause()
    if (this.suspendedSince === undefined) this.suspendedSince = this.timeline.now
  }

  wake(): void {
    if (this.suspendedSince !== undefined) this.suspendedFor += this.timeline.now - this.suspendedSince
    this.suspendedSince = undefined
    this.resume()
  }

  crash(): void {
    this.crashed = true
    this.tasks.length = 0
  }

  /** In nanoseconds. */
  private wall(): number {
    return Math.floor(this.timeline.now * this.rate)
  }

  private monotonic(): number {
    const asleep = this.suspendedFor + (this.suspendedSince === undefined ? 0 : this.timeline.now - this.suspendedSince)
    return Math.floor((this.timeline.now - asleep) * this.rate)
  }

  private makeClock(): Clock.Clock {
    const start = 1_600_000_000_000
    const currentTimeMillisUnsafe = () => start + Math.floor(this.wall() / millis)
    const currentTimeNanosUnsafe = () => BigInt(start) * 1_000_000n + BigInt(this.wall())
    const monotonicTimeNanosUnsafe = () => BigInt(this.monotonic())
    return {
      currentTimeMillisUnsafe,
      currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
      currentTimeNanosUnsafe,
      currentTimeNanos: Effect.sync(currentTimeNanosUnsafe),
      monotonicTimeNanosUnsafe,
      monotonicTimeNanos: Effect.sync(monotonicTimeNanosUnsafe),
      sleep: (duration) => this.sleep(Duration.toMillis(duration))
    }
  }

  private sleep(length: number): Effect.Effect<void> {
    if (length === Infinity) return Effect.never
    return Effect.callback<void>((resume) => {
      const cancel = this.wakeAfter(length, () => resume(Effect.void))
      return Effect.sync(cancel)
    })
  }

  /** A timer of this process, in milliseconds of its clock. */
  wakeAfter(length: number, run: () => void): () => void {
    this.timers++
    let waiting = true
    const end = () => {
      if (waiting) this.timers--
      waiting = false
    }
    const due = this.monotonic() + Math.max(0, length) * millis
    const check = () => {
      const left = due - this.monotonic()
      if (left >= 1) {
        // Its clock stood still meanwhile, and may do so for long.
        timer = this.timeline.after(Math.max(millis, Math.ceil(left / this.rate)), check)
        return
      }
      this.post(() => {
        if (!waiting) return
        end()
        run()
      })
    }
    let timer = this.timeline.after(Math.ceil(Math.max(0, length) * millis / this.rate), check)
    return () => {
      end()
      this.timeline.cancel(timer)
    }
  }

  private makeScheduler(): Scheduler.Scheduler {
    const { manners, random } = this
    const dispatcher: Scheduler.SchedulerDispatcher = {
      scheduleTask: (task) => this.post(task),
      flush: () => {}
    }
    return {
      executionMode: "async",
      // Not before the first operation: a fiber that was interrupted before its start would start all the same.
      shouldYield: (fiber) =>
        fiber.currentOpCount >= fiber.cache.maxOpsBeforeYield ||
        (manners.yields > 0 && fiber.currentOpCount > 1 && random.chance(manners.yields)),
      makeDispatcher: () => dispatcher
    }
  }
}
