/**
 * To be imported before Effect is: a fiber that waits takes Node's async context with it, which in a simulation nobody reads, and
 * which is a tenth of its time.
 */
const { getBuiltinModule } = process
process.getBuiltinModule =
  ((id: string) => id === "node:async_hooks" ? undefined : getBuiltinModule(id)) as typeof getBuiltinModule
