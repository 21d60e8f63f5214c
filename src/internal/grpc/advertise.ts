/**
 * The address under which others reach a server that listens here.
 */
import * as Effect from "effect/Effect"
import { isIP } from "node:net"
import { networkInterfaces } from "node:os"
import { InvalidOption } from "../../Errors.ts"
import { hostOf } from "./endpoint.ts"

/** `[::1]:80` for IPv6. */
export const hostPort = (host: string, port: number): string =>
  isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`

// All spellings of zero, as `0`, `::0` and `[::]`, and of the same mapped into IPv6.
const wildcard = /^\[?(0+(\.0+){0,3}|[0:]*::[0:]*(ffff:0+(\.0+){3})?|(0+:){7}0+)\]?$/i

export const isWildcard = (address: string): boolean => wildcard.test(address)

/** What others may reach of this machine: no loopback, and nothing that counts on one link alone. */
const ownAddresses = (): ReadonlyArray<string> => {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? [])
  const usable = all.filter(({ address, internal }) => !internal && !/^(169\.254\.|fe80:)/i.test(address))
  const v4 = usable.filter(({ family }) => family === "IPv4")
  return [...new Set((v4.length > 0 ? v4 : usable).map(({ address }) => address))]
}

const invalid = (rule: string) => Effect.fail(new InvalidOption({ option: "address", rule }))

const hint = "give the one that clients reach it at, as the IP of the pod or the name of the machine"

/**
 * What to register for a server that listens on `host`: `address` where it is given, `host` itself where that is one address, and
 * the address of the machine where there is no choice, as in a container. It never guesses among several.
 */
export const advertisedAddress = (
  host: string,
  address: string | undefined,
  own: () => ReadonlyArray<string> = ownAddresses
): Effect.Effect<string, InvalidOption> =>
  Effect.suspend(() => {
    if (address !== undefined) {
      if (isWildcard(address)) {
        return invalid(`must not be ${address}, which means every address and leads nowhere: ${hint}`)
      }
      // Channels pass over what is neither: it would be registered and never called.
      return hostOf(address) === undefined
        ? invalid(`must be a host name or an IP address, without a port, got ${JSON.stringify(address)}`)
        : Effect.succeed(address)
    }
    if (!isWildcard(host)) return Effect.succeed(host)
    const found = own()
    const [only] = found
    if (only !== undefined && found.length === 1) return Effect.succeed(only)
    const why = found.length === 0 ? "no address but loopback" : `several addresses (${found.join(", ")})`
    return invalid(`must be given, as the server listens on ${host} and this machine has ${why}: ${hint}`)
  })
