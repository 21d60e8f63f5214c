/** Spreads jobs over the cores. */
import { availableParallelism } from "node:os"
import { setFlagsFromString } from "node:v8"
import { Worker } from "node:worker_threads"
import type { Job, Report } from "./worker.ts"

/** A schedule leaves nothing behind: with room for several of them, the collector finds little that lives. */
const maxYoungGenerationSizeMb = 384

/**
 * Whatever a generator has seen survives young collections: its map is old. That is no reason to make objects of that kind old from the
 * start.
 */
setFlagsFromString("--no-allocation-site-pretenuring")

/**
 * What outlives a young collection here is garbage too, but each full collection takes the optimised code of every closure that
 * is made anew for each schedule with it: with hundreds of megabytes until the next one, a fifth of the time is saved.
 */
const maxOldGenerationSizeMb = 1500
setFlagsFromString("--initial-old-space-size=1000")
// Of the thirty megabytes that live.
setFlagsFromString("--heap-growing-percent=3000")

/** `done` says whether to go on with what is left. */
export const runJobs = (jobs: Iterable<Job>, done: (report: Report) => boolean): Promise<void> =>
  new Promise((resolve, reject) => {
    const queue = jobs[Symbol.iterator]()
    let stopped = false
    let busy = 0
    const workers = Array.from(
      { length: availableParallelism() },
      () =>
        new Worker(new URL("worker.ts", import.meta.url), {
          resourceLimits: { maxOldGenerationSizeMb, maxYoungGenerationSizeMb }
        })
    )
    const next = (worker: Worker): void => {
      const job = stopped ? { done: true as const } : queue.next()
      if (job.done !== true) {
        busy++
        // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread is no window
        worker.postMessage(job.value)
      } else if (busy === 0) {
        for (const worker of workers) void worker.terminate()
        resolve()
      }
    }
    for (const worker of workers) {
      worker.on("message", (report: Report) => {
        busy--
        stopped = !done(report) || stopped
        next(worker)
      })
      worker.on("error", reject)
    }
    for (const worker of workers) next(worker)
  })
