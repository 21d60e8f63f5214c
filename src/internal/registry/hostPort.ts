/**
 * `host:port`, with brackets around an IPv6 address, as Go's `net.JoinHostPort` writes and `net.SplitHostPort` reads it.
 */
export interface HostPort {
  readonly address: string
  readonly port: number
}

const syntax = /^(?:\[([^[\]]+)\]|([^:[\]]+)):(\d{1,5})$/

export const readHostPort = (text: string): HostPort | undefined => {
  const [, bracketed, plain, port] = syntax.exec(text) ?? []
  const address = bracketed ?? plain
  return address === undefined ? undefined : { address, port: Number(port) }
}

export const writeHostPort = ({ address, port }: HostPort): string =>
  address.includes(":") && !address.startsWith("[") ? `[${address}]:${port}` : `${address}:${port}`
