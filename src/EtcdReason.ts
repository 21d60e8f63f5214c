/**
 * The reasons of an `EtcdError`, under one name: `Timeout` or `Closed` alone would say too little where it is imported.
 *
 * @since 0.1.0
 */
export {
  Ambiguous,
  Closed,
  Compacted,
  HistoryLost,
  InvalidArgument,
  LeaseNotFound,
  NoSpace,
  PermissionDenied,
  Timeout,
  TooLarge,
  Unauthenticated,
  Unavailable,
  Unexpected
} from "./EtcdError.ts"
