/**
 * As `fiber.addObserver`, for those that come and go all the time.
 *
 * V8 may make the list of a fiber's observers in its old space, and with it what it can see is put there in the same step: the function that
 * is told, its context, and what is made for it alone. There all of it outlives the fiber, and so does each small collection whatever it
 * refers to: in a loop of locks a fifth of all that was allocated, and a lock took up to 1.5 times the CPU. So who is told is an object that
 * then lets go of what it has.
 */
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"

export interface Observer<A, E> {
  /** Once. Lets go of whatever it does not need any more. */
  readonly ended: (exit: Exit.Exit<A, E>) => void
}

export const observe = <A, E>(fiber: Fiber.Fiber<A, E>, observer: Observer<A, E>): void => {
  fiber.addObserver(tellerOf(observer))
}

/** Refers to the observer alone, as it is made here. */
const tellerOf = <A, E>(observer: Observer<A, E>) => (exit: Exit.Exit<A, E>): void => observer.ended(exit)
