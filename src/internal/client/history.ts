/**
 * How far a client has seen the store get. Revisions only grow, so an etcd whose revision is below that was restored from an older snapshot,
 * even where a single watch that was cut at the time has seen nothing that it could miss.
 */
import { HistoryLost } from "../../EtcdError.ts"

export class History {
  /** The greatest revision that anything in this client was told of. */
  latest = 0n
  /** When the store last went back. A watch that is older than that cannot go on from what it knows. */
  loss: HistoryLost | undefined

  saw(revision: bigint): void {
    if (revision > this.latest) this.latest = revision
  }

  lost(actual: bigint): void {
    this.loss = new HistoryLost({ expected: this.latest, actual })
    this.latest = actual
  }
}
