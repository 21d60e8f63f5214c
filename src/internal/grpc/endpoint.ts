/**
 * Instances as grpc-js wants them.
 */
import type { experimental } from "@grpc/grpc-js"
import { isIPv6 } from "node:net"
import type { ServiceInstance } from "../../ServiceInstance.ts"
import { isHost } from "../validate.ts"
import { hash } from "./hash.ts"

/** Where calls can go, and what the load balancing knows of it. */
export interface ServiceEndpoint extends experimental.Endpoint {
  /** `host:port`: what makes two of them the same. */
  readonly key: string
  readonly weight: number
  readonly zone: string | undefined
  readonly hash: number
}

/** What grpc-js says in errors about where the address of a connection comes from. */
export const origin = "found in etcd"

export interface Parsed {
  /** None where the address is unusable. */
  readonly endpoint: ServiceEndpoint | undefined
  readonly problem: string | undefined
}

export const parseInstance = ({ address, metadata, port }: ServiceInstance): Parsed => {
  const host = hostOf(address)
  if (host === undefined) {
    return { endpoint: undefined, problem: "its address is neither a host name nor an IP address: it is not called" }
  }
  const weight = weightOf(metadata["weight"])
  const key = isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
  return {
    endpoint: {
      addresses: [{ host, port }],
      key,
      weight: weight ?? 1,
      zone: metadata["zone"],
      hash: hash(key)
    },
    problem: weight === undefined ? "its metadata.weight is no number from 0: it is taken for 1" : undefined
  }
}

/** Also an IPv6 address in brackets, as in a URL. */
export const hostOf = (address: string): string | undefined => {
  const bare = address.startsWith("[") && address.endsWith("]") ? address.slice(1, -1) : undefined
  if (bare !== undefined) return isIPv6(bare) ? bare : undefined
  return isIPv6(address) || isHost(address) ? address : undefined
}

const weightOf = (text: string | undefined): number | undefined => {
  if (text === undefined) return 1
  const weight = text.trim() === "" ? Number.NaN : Number(text)
  return Number.isFinite(weight) && weight >= 0 ? weight : undefined
}

/** Whether the load balancing would do the same with both. */
export const isSameEndpoint = (a: ServiceEndpoint, b: ServiceEndpoint | undefined): boolean =>
  a === b || (b !== undefined && a.key === b.key && a.weight === b.weight && a.zone === b.zone)
