/** The example as it is run: what it draws, how it ends, and that nothing of it is left. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

const program = fileURLToPath(new URL('../../examples/council/run.ts', import.meta.url))
const LANES = ['You', 'Kublai', 'Möngke', 'Chagatai', 'Temüjin', 'Jochi', 'Ögedei']
const CLOCK = 8

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kurultai-example-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function convene(request: string[] = [], columns = 80) {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, ...request], {
    env: { PATH: process.env['PATH'], TMPDIR: folder, COLUMNS: String(columns) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said = { out: '', err: '' }
  const waiting = new Set<() => void>()
  const hear = (name: 'out' | 'err') => (piece: string) => {
    said[name] += piece
    for (const look of waiting) look()
  }
  child.stdout.setEncoding('utf8').on('data', hear('out'))
  child.stderr.setEncoding('utf8').on('data', hear('err'))
  const parts = () => processesOf(child.pid!)
  return {
    pid: child.pid!,
    said,
    parts,
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    until: (text: string) =>
      new Promise<void>((resolve) => {
        const look = () => {
          if (said.out.includes(text)) resolve()
        }
        waiting.add(look)
        look()
      }),
    ended: new Promise<number | null>((resolve) => child.on('close', resolve)),
  }
}

/** The children of a process, as far as the system tells of them: by id, with what they were started as. */
function processesOf(parent: number): Map<number, string> {
  const found = new Map<number, string>()
  for (const pid of existsSync('/proc') ? readdirSync('/proc').filter((name) => /^\d+$/.test(name)) : [])
    try {
      const [, ppid] = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
      if (Number(ppid) === parent)
        found.set(Number(pid), readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '))
    } catch {
      // It has ended meanwhile.
    }
  return found
}

/** Processes of these that still run, and are not only waiting to be forgotten. */
const alive = (pids: Iterable<number>): number[] =>
  [...pids].filter((pid) => {
    try {
      return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
    } catch {
      return false
    }
  })

/** The arrows in a picture, each with the line below it. */
function arrowsOf(picture: string): string[] {
  const lines = picture.split('\n')
  const lane = lines.find((line) => line.startsWith('  time'))!.indexOf('Kublai') - CLOCK
  return lines.flatMap((line, place) => {
    const [arrow] = /├[─┄]+▶|◀[─┄]+┤/.exec(line) ?? []
    if (!arrow) return []
    const first = LANES[Math.round((line.indexOf(arrow) - CLOCK) / lane)]!
    const last = LANES[Math.round((line.indexOf(arrow) + arrow.length - CLOCK) / lane)]!
    const [from, to] = arrow.startsWith('├') ? [first, last] : [last, first]
    const [, label] = /^ +(\S+(?: \w+)?) “/.exec(lines[place + 1]!)!
    return [`${from} → ${to}: ${label}`]
  })
}

describe('npm run council', () => {
  it('draws who spoke to whom, answers, and leaves nothing', async () => {
    const council = convene()
    await council.until('#1 delivered')
    const parts = council.parts()
    expect([await council.ended, council.said.err]).toEqual([0, ''])
    const { out } = council.said
    const arrows = arrowsOf(out)
    expect(arrows.slice(0, 1)).toEqual(['You → Kublai: request'])
    // The first two are asked at once, by whichever is faster.
    const numberOf = (agent: string) => /#\d/.exec(arrows.find((arrow) => arrow.includes(`→ ${agent}:`))!)![0]
    const [researcher, developer] = [numberOf('Möngke'), numberOf('Temüjin')]
    expect([researcher, developer].sort()).toEqual(['#1', '#2'])
    const expected = [
      ['Kublai', 'Möngke', researcher],
      ['Kublai', 'Temüjin', developer],
      ['Möngke', 'Ögedei', '#3'],
      ['Kublai', 'Chagatai', '#4'],
      ['Kublai', 'Jochi', '#5'],
    ].flatMap(([from, to, number]) => [`${from} → ${to}: ${number} delivered`, `${to} → ${from}: ${number} replied`])
    expect(arrows.slice(1).sort()).toEqual(expected.sort())
    const precedes = (one: string, other: string) =>
      expect(arrows.indexOf(one), `${one} before ${other}`).toBeLessThan(arrows.indexOf(other))
    for (const asked of [`Möngke: ${researcher}`, `Temüjin: ${developer}`])
      precedes(`Kublai → ${asked} delivered`, `Temüjin → Kublai: ${developer} replied`)
    precedes(`Ögedei → Möngke: #3 replied`, `Möngke → Kublai: ${researcher} replied`)
    precedes(`Möngke → Kublai: ${researcher} replied`, 'Kublai → Chagatai: #4 delivered')
    precedes('Chagatai → Kublai: #4 replied', 'Kublai → Jochi: #5 delivered')
    for (const number of [1, 2, 3, 4, 5]) expect(out.split(`◆ #${number}`)).toHaveLength(2)
    expect(out).toMatch(
      /Kublai answers:\n\n {2}What it is\. The kurultai[\s\S]+Jochi has read it: \d+ words in 3 parts/,
    )
    expect(out).toContain('The chain of it: 5 messages, 2 hops deep')
    expect(out.match(/replied, heard once, hop 1/g)).toHaveLength(4)
    expect(out).toMatch(/Möngke .*\n│ {2}└─ #3 Ögedei {2}replied, heard once, hop 2/)
    expect(out.split('\n').filter((line) => line.length > 80)).toEqual([])
    if (existsSync('/proc')) expect(parts.size).toBe(7)
    expect([alive(parts.keys()), readdirSync(folder)]).toEqual([[], []])
  })

  it('draws without lanes where there is no room for them, and obeys no sign in what was said', async () => {
    const council = convene(['字'.repeat(60), '\x1b[31m\x07'], 50)
    expect([await council.ended, council.said.err]).toEqual([0, ''])
    const { out } = council.said
    expect(out).toContain('Möngke ──▶ Ögedei')
    expect(out).toContain('Ögedei ┄┄▶ Möngke')
    expect(out).toContain('We are six scripts')
    expect(out).not.toMatch(/[\x00-\x09\x0b-\x1f]/)
    const widthOf = (line: string) => [...line].reduce((sum, sign) => sum + (sign === '字' ? 2 : 1), 0)
    expect(out.split('\n').filter((line) => widthOf(line) > 50)).toEqual([])
  })

  it('ends all of it with Ctrl-C', async () => {
    const council = convene()
    await council.until('#1 delivered')
    const parts = council.parts()
    council.kill('SIGINT')
    expect(await council.ended).toBe(130)
    await expect.poll(() => alive(parts.keys())).toEqual([])
    expect(readdirSync(folder)).toEqual([])
  })

  it('says which part failed, and why', async (context) => {
    context.skip(!existsSync('/proc'), 'nothing tells its processes apart')
    const council = convene()
    await council.until('#1 delivered')
    const parts = council.parts()
    const [analyst] = [...parts].find(([, command]) => /councillor\.\w+ analyst/.test(command))!
    process.kill(analyst, 'SIGKILL')
    expect(await council.ended).toBe(1)
    expect(council.said.err).toMatch(/^\nThe council failed: Jochi \((Node|Python)\) ended with SIGKILL/)
    await expect.poll(() => alive(parts.keys())).toEqual([])
    expect(readdirSync(folder)).toEqual([])
  })
})
