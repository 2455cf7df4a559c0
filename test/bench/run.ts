/**
 * The bench: one table, the gateway against a bare server on the same machine in the same minutes.
 *
 * `npm run bench -- [--reps N] [--only row[,row]] [--long]`; see README.md beside this file.
 */
import { readFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { type Line, ROWS, type Target } from './rows.ts'
import { cleanUp, killServers, prepare, startModel } from './servers.ts'

/** No row group takes longer; with `--long` or many repetitions it may take several times that. */
const ROW_LIMIT_MS = 90_000
/** So many times off is no longer a matter of tuning. */
const BUG = 10

const { values } = parseArgs({
  options: {
    reps: { type: 'string', default: '3' },
    only: { type: 'string' },
    long: { type: 'boolean', default: false },
  },
})

const median = (numbers: number[]): number => {
  const sorted = numbers.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

/** The median of the paired ratios, not the ratio of the medians. */
const ratioOf = (gateway: number[], reference: number[]): number =>
  median(gateway.map((value, index) => value / reference[index]!))

const short = (value: number): string => {
  const size = Math.abs(value)
  return Number.isNaN(value) ? '-' : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3)
}

/** How far the gateway is off: 1 is on target, above is worse. */
function offBy({ gateway, reference, target }: Line): number {
  if (target === 'none') return 0
  if ('ratio' in target) return ratioOf(gateway, reference) / target.ratio
  if ('atMost' in target) return median(gateway) / target.atMost
  if ('exactly' in target) return gateway.every((value) => value === target.exactly) ? 1 : Number.POSITIVE_INFINITY
  return median(gateway.map((value, index) => (value - reference[index]!) / target.plus))
}

function markOf(line: Line): string {
  const off = offBy(line)
  if (line.target === 'none') return ''
  if (off <= 1) return 'ok'
  return off > BUG ? '!! BUG' : 'off'
}

function wordsOf(target: Target, unit: string): string {
  if (target === 'none') return ''
  if ('ratio' in target) return `≤ ${target.ratio} ×`
  if ('plus' in target) return `≤ +${target.plus} ${unit}`
  if ('atMost' in target) return `≤ ${target.atMost} ${unit}`
  return `= ${target.exactly}`
}

/** The ratio, or what the target is about instead. */
function comparison({ gateway, reference, target }: Line): string {
  if (target === 'none' || 'ratio' in target) return `${short(ratioOf(gateway, reference))} ×`
  if (!('plus' in target)) return ''
  const added = median(gateway.map((value, index) => value - reference[index]!))
  return `${added < 0 ? '' : '+'}${short(added)}`
}

const HEAD = ['row', 'unit', 'gateway', 'reference', 'ratio', 'target', '', 'wall: gateway / reference', 'reference is']

function cells(line: Line): string[] {
  const { title, unit, gateway, reference, against, target, wall, note } = line
  return [
    title,
    unit,
    short(median(gateway)),
    short(median(reference)),
    comparison(line),
    wordsOf(target, unit),
    markOf(line),
    wall ? `${short(median(wall.gateway))} / ${short(median(wall.reference))} ${wall.unit}` : '',
    note ? `${against}; ${note}` : against,
  ]
}

function print(table: string[][]): void {
  const widths = HEAD.map((_, column) => Math.max(...table.map((row) => [...row[column]!].length)))
  for (const [index, row] of table.entries()) {
    const padded = row.map((cell, column) => {
      const fill = ' '.repeat(widths[column]! - [...cell].length)
      return column >= 2 && column <= 4 ? fill + cell : cell + fill
    })
    console.log(padded.join('  ').trimEnd())
    if (index === 0) console.log(widths.map((width) => '-'.repeat(width)).join('  '))
  }
}

const machine = () => {
  const [one = 0, five = 0] = loadavg()
  const model = /model name\s*: (.*)/.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? 'unknown processor'
  return `${cpus().length} cores (${model}), load ${one.toFixed(2)} (1 min) ${five.toFixed(2)} (5 min), Node ${process.version}`
}

/** Rejects when the time is up. */
async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms / 1000} s`)), ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

async function main(): Promise<number> {
  const reps = Math.max(1, Math.min(50, Number(values.reps) || 3))
  const names = values.only?.split(',') ?? Object.keys(ROWS)
  const unknown = names.find((name) => !Object.hasOwn(ROWS, name))
  if (unknown !== undefined) {
    console.error(`there is no row "${unknown}"; there are: ${Object.keys(ROWS).join(', ')}`)
    return 64
  }
  const began = performance.now()
  await prepare()
  const model = await startModel()
  console.log(
    `${machine()}\n${reps} paired repetitions (fewer where said); everything shares these cores, the load, too\n`,
  )
  const lines: Line[] = []
  const failures: string[] = []
  const seconds: string[] = []
  const limitMs = ROW_LIMIT_MS * Math.max(1, reps / 3) * (values.long ? 4 : 1)
  for (const name of names) {
    const rowBegan = performance.now()
    try {
      lines.push(...(await within(limitMs, name, ROWS[name]!({ reps, long: values.long, model: model.url }))))
    } catch (error) {
      failures.push(`${name}: ${(error as Error).message}`)
      killServers()
    }
    seconds.push(`${name} ${((performance.now() - rowBegan) / 1000).toFixed(0)}`)
  }
  print([HEAD, ...lines.map(cells)])
  const bugs = lines.filter((line) => markOf(line).startsWith('!!'))
  const off = lines.filter((line) => markOf(line) === 'off')
  console.log(
    `\n${off.length} off target, ${bugs.length} more than ${BUG} times off, ${failures.length} failed; ` +
      `${((performance.now() - began) / 1000).toFixed(0)} s (${seconds.join(', ')}); load ${loadavg()[0]!.toFixed(2)} at the end`,
  )
  for (const failure of failures) console.log(`failed: ${failure}`)
  return bugs.length + failures.length > 0 ? 1 : 0
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130))
process.on('exit', cleanUp)
// What a row that failed had still under way fails after it.
process.on('unhandledRejection', (error) => console.error(`afterwards: ${(error as Error).message}`))
process.exit(await main())
