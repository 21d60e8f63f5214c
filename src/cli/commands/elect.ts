/**
 * `coord elect`.
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { Election } from "../../Election.ts"
import { isTransient } from "../../internal/session/Patience.ts"
import { asRunner, silently } from "../Exit.ts"
import { envOf, graceOf, type HeldInput, runWhile } from "../held.ts"
import { live } from "../services.ts"

interface Input extends HeldInput {
  readonly value: string
}

/** Between two campaigns, so that a leadership which is taken away again and again makes no busy loop. */
const pause = Schedule.spaced("1 second").pipe(Schedule.jittered)

export const elect = Effect.fnUntraced(
  function*(input: Input) {
    const election = yield* Election
    const grace = yield* graceOf(input.grace, input.ttl)
    const what = `election ${JSON.stringify(input.name)}`
    const campaign = election.campaign(input.name, input.value, { ttl: input.ttl }).pipe(
      // The retry schedule of each campaign has been used up.
      Effect.retry({ schedule: pause, while: (error) => error._tag === "EtcdError" && isTransient(error) })
    )
    const term = Effect.scoped(Effect.gen(function*() {
      const leadership = yield* campaign
      const env = yield* envOf("COORD_ELECTION_KEY", leadership)
      return yield* runWhile(leadership, { ...input, env, grace, what })
    }))
    const ended = yield* term.pipe(
      Effect.repeat({ schedule: pause, while: ({ _tag }) => _tag === "Lost" })
    )
    if (ended._tag === "Ended") return yield* silently(ended.code)
  },
  Effect.provide(live),
  asRunner
)
