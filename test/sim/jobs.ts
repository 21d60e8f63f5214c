/** A run of many schedules, cut into jobs for the workers. */
import type { Job } from "./worker.ts"

/** Small enough that the workers end together, big enough that nobody waits for a message. */
const jobSize = 100

export const jobsOf = function*(
  scenarios: ReadonlyArray<string>,
  from: number,
  count: number,
  rest: Partial<Job> = {}
): Generator<Job> {
  const share = Math.ceil(count / scenarios.length)
  for (let start = 0; start < share; start += jobSize) {
    for (const scenario of scenarios) {
      yield { scenario, from: from + start, count: Math.min(jobSize, share - start), ...rest }
    }
  }
}

/** Jobs end in another order than they begin in: what was played without a gap is what a later run can leave out. */
export const makeProgress = (skipped: number) => {
  const begun: Array<{ readonly job: Job; readonly before: number }> = []
  const over = new Set<string>()
  let played = skipped
  const name = ({ from, scenario }: Job) => `${scenario} ${from}`
  return {
    /** Without those of which all schedules are skipped. */
    *left(jobs: Iterable<Job>): Generator<Job> {
      let before = 0
      for (const job of jobs) {
        if (before + job.count > skipped) {
          begun.push({ job, before })
          yield job
        }
        before += job.count
      }
    },
    /** How many schedules have been played, or skipped, without a gap. */
    done: (job: Job): number => {
      over.add(name(job))
      for (let [first] = begun; first !== undefined && over.delete(name(first.job)); [first] = begun) {
        begun.shift()
        played = first.before + first.job.count
      }
      return played
    }
  }
}
