/** With one more. V8 makes room for 17 where something is pushed into an empty array, and most of these have one member. */
export const added = <A>(list: Array<A> | undefined, one: A): Array<A> => {
  if (list === undefined) return [one]
  list.push(one)
  return list
}
