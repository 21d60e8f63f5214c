/** A line chart as SVG, of as little as it takes. */

export interface Series {
  readonly name: string
  readonly points: ReadonlyArray<readonly [x: number, y: number]>
}

const width = 640
const height = 360
const left = 70
const right = 150
const top = 40
const bottom = 50
const colours = ["#3b6fd4", "#d4603b", "#3b9c5a", "#8a5cc2"]

const short = (value: number): string => value >= 1000 ? `${Number((value / 1000).toPrecision(3))}k` : `${value}`

/** Both axes by powers, as what grows by factors is read as a line. */
export const lineChart = (title: string, xLabel: string, yLabel: string, series: ReadonlyArray<Series>): string => {
  const points = series.flatMap((one) => one.points)
  const xs = [...new Set(points.map(([x]) => x))].toSorted((a, b) => a - b)
  const low = 10 ** Math.floor(Math.log10(Math.min(...points.map(([, y]) => y))))
  const high = 10 ** Math.ceil(Math.log10(Math.max(...points.map(([, y]) => y))))
  const xAt = (x: number) => {
    const [first = 1, last = 1] = [xs[0], xs.at(-1)]
    return left + (width - left - right) * (last === first ? 0 : Math.log(x / first) / Math.log(last / first))
  }
  const yAt = (y: number) => height - bottom - (height - top - bottom) * (Math.log(y / low) / Math.log(high / low))
  const ticks: Array<number> = []
  for (let tick = low; tick <= high; tick *= 10) ticks.push(tick)
  const text = (x: number, y: number, content: string, more = "") => `<text x="${x}" y="${y}"${more}>${content}</text>`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    text(left, 22, title, " font-size=\"15\" font-weight=\"bold\""),
    ...ticks.map((tick) =>
      `<line x1="${left}" x2="${width - right}" y1="${yAt(tick)}" y2="${yAt(tick)}" stroke="#ddd"/>` +
      text(left - 8, yAt(tick) + 4, short(tick), " text-anchor=\"end\"")
    ),
    ...xs.map((x) => text(xAt(x), height - bottom + 18, short(x), " text-anchor=\"middle\"")),
    text((left + width - right) / 2, height - 10, xLabel, " text-anchor=\"middle\""),
    text(14, 34, yLabel),
    ...series.flatMap(({ name, points }, index) => {
      const colour = colours[index % colours.length]
      const [endX = 0, endY = low] = points.at(-1) ?? []
      return [
        `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${
          points.map(([x, y]) => `${xAt(x).toFixed(1)},${yAt(y).toFixed(1)}`).join(" ")
        }"/>`,
        ...points.map(([x, y]) => `<circle cx="${xAt(x)}" cy="${yAt(y)}" r="3" fill="${colour}"/>`),
        text(xAt(endX) + 8, yAt(endY) + 4, name, ` fill="${colour}"`)
      ]
    }),
    "</svg>\n"
  ].join("\n")
}
