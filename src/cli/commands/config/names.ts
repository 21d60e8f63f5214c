/**
 * Keys as names of files: a segment is a folder, the last one a file. So that every key has a name that every system can have, and every
 * such file is a key:
 *
 * - `%` and what some systems keep for themselves (`\ : * ? " < > |`, a dot or a space at the end) are written as `%` and two digits;
 * - so is a dot at the beginning: names that begin with a dot are no keys, but what editors, systems and version control leave there;
 * - the value of a key that is a folder as well lies in that folder, as `%value`.
 */
import * as Option from "effect/Option"

const percent = (char: string): string => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`

const nameOf = (segment: string): string =>
  segment.replaceAll(/[%\\:*?"<>|]/g, percent).replace(/^\./, percent).replace(/[. ]$/, percent)

const ownValue = "%value"

export const isHidden = (name: string): boolean => name.startsWith(".")

/** The path below the folder of each key. */
export const pathsOf = (keys: ReadonlyArray<string>): ReadonlyMap<string, string> => {
  const folders = new Set<string>()
  for (const key of keys) {
    for (let end = key.lastIndexOf("/"); end > 0; end = key.lastIndexOf("/", end - 1)) folders.add(key.slice(0, end))
  }
  return new Map(keys.map((key) => {
    const path = key.split("/").map(nameOf).join("/")
    return [key, folders.has(key) ? `${path}/${ownValue}` : path]
  }))
}

const segmentOf = (name: string): Option.Option<string> => {
  const segment = name.replaceAll(/%([0-7][0-9A-Fa-f])/g, (_, code: string) => String.fromCharCode(parseInt(code, 16)))
  return /%(?![0-7][0-9A-Fa-f])/.test(name) ? Option.none() : Option.some(segment)
}

/** The key of a path; it may be none that is allowed. None: the name is no name of a key. */
export const keyOf = (path: string): Option.Option<string> => {
  const names = path.split("/")
  if (names.at(-1) === ownValue) names.pop()
  return Option.map(Option.all(names.map(segmentOf)), (segments) => segments.join("/"))
}
