/**
 * A set whose members come and go all the time, each of them in one such set only, in the order in which they came.
 *
 * A `Set` makes a new table each time that it has grown or shrunk, and each old table points to the next one and to what was in it then. As
 * soon as one of them is in V8's old space, all that come after it survive each small collection, with what their members refer to: that
 * was a quarter of all that a lock cycle allocates. Here, who leaves points to nobody.
 */
export class Link<A extends Link<A>> {
  /** For `Linked` alone. */
  before: A | undefined
  after: A | undefined
  of: Linked<A> | undefined
}

export class Linked<A extends Link<A>> {
  #first: A | undefined
  #last: A | undefined
  size = 0

  get first(): A | undefined {
    return this.#first
  }

  has(member: A): boolean {
    return member.of === this
  }

  add(member: A): void {
    if (member.of !== undefined) return
    member.of = this
    member.before = this.#last
    if (this.#last === undefined) this.#first = member
    else this.#last.after = member
    this.#last = member
    this.size++
  }

  /** Whether it was there. */
  delete(member: A): boolean {
    if (member.of !== this) return false
    const { after, before } = member
    if (before === undefined) this.#first = after
    else before.after = after
    if (after === undefined) this.#last = before
    else after.before = before
    member.of = member.before = member.after = undefined
    this.size--
    return true
  }

  /** Those who are there now: what follows from looking at one of them may change who is there. */
  all(): ReadonlyArray<A> {
    const all: Array<A> = []
    for (let member = this.#first; member !== undefined; member = member.after) all.push(member)
    return all
  }
}
