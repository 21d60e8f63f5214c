/**
 * A transaction as `Etcd.txn` does it, started without a fiber where that can be: locks send two for each holder, and a fiber of its own for
 * each of them was a good part of their price.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type { Etcd, TxnRequest, TxnResult } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { observe, type Observer } from "../observe.ts"

/** What was started, until it has ended. */
export interface Started {
  /** Interrupts it: from then on nobody is told anything. Again, or after its end, it does nothing. */
  readonly cancel: () => void
}

/** `observer` is told once how it ended, which can be before this returns. */
export type Start = (
  request: TxnRequest,
  context: Context.Context<never>,
  observer: Observer<TxnResult, EtcdError>
) => Started

const known = new WeakMap<Etcd["Service"], Start>()

/** How a client of this library does it. */
export const knowStart = (etcd: Etcd["Service"], start: Start): void => {
  known.set(etcd, start)
}

/** In a fiber, of which the same holds. */
export const startFiber = <A, E>(
  effect: Effect.Effect<A, E>,
  context: Context.Context<never>,
  observer: Observer<A, E>
): Started => {
  const fiber = Effect.runForkWith(context)(effect)
  const running = new Running(fiber, observer)
  observe(fiber, running)
  return running
}

class Running<A, E> implements Observer<A, E>, Started {
  readonly #fiber: Fiber.Fiber<A, E>
  #observer: Observer<A, E> | undefined

  constructor(fiber: Fiber.Fiber<A, E>, observer: Observer<A, E>) {
    this.#fiber = fiber
    this.#observer = observer
  }

  cancel(): void {
    this.#observer = undefined
    this.#fiber.interruptUnsafe()
  }

  ended(exit: Exit.Exit<A, E>): void {
    const observer = this.#observer
    this.#observer = undefined
    observer?.ended(exit)
  }
}

export const startOf = (etcd: Etcd["Service"]): Start =>
  known.get(etcd) ?? ((request, context, observer) => startFiber(etcd.txn(request), context, observer))
