/**
 * A transaction as `Etcd.txn` does it, started without a fiber where that can be: locks send two for each holder, and a fiber of its own for
 * each of them was a good part of their price.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type { Etcd, TxnRequest, TxnResult } from "../../Etcd.ts"
import type { EtcdError } from "../../EtcdError.ts"
import { observe, type Observer } from "../observe.ts"

export type Ended<A, E> = (exit: Exit.Exit<A, E>) => void

/**
 * `ended` is told once how it ended, which can be before this returns. What it answers interrupts the transaction: from then on nobody is
 * told anything.
 */
export type Start = (
  request: TxnRequest,
  context: Context.Context<never>,
  ended: Ended<TxnResult, EtcdError>
) => () => void

const known = new WeakMap<Etcd["Service"], Start>()

/** How a client of this library does it. */
export const knowStart = (etcd: Etcd["Service"], start: Start): void => {
  known.set(etcd, start)
}

/** In a fiber, of which the same holds. */
export const startFiber = <A, E>(
  effect: Effect.Effect<A, E>,
  context: Context.Context<never>,
  ended: Ended<A, E>
): () => void => {
  const fiber = Effect.runForkWith(context)(effect)
  const told = new Told(ended)
  observe(fiber, told)
  return () => {
    told.forget()
    fiber.interruptUnsafe()
  }
}

class Told<A, E> implements Observer<A, E> {
  #told: Ended<A, E> | undefined

  constructor(told: Ended<A, E>) {
    this.#told = told
  }

  forget(): void {
    this.#told = undefined
  }

  ended(exit: Exit.Exit<A, E>): void {
    const told = this.#told
    this.#told = undefined
    told?.(exit)
  }
}

export const startOf = (etcd: Etcd["Service"]): Start =>
  known.get(etcd) ?? ((request, context, ended) => startFiber(etcd.txn(request), context, ended))
