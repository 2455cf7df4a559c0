/** What is drawn: a lane for each who speaks, an arrow for each who speaks to another, and the chain as a tree at the end. */

export interface Paper {
  /** Columns of the terminal. */
  width: number
  isColoured: boolean
  write(text: string): void
}

export interface Arrow {
  /** Since the beginning, in ms. */
  at: number
  from: string
  to: string
  /** How many messages came before it in its chain, and itself. */
  hop: number
  kind: 'message' | 'answer'
  /** Stands below it: what it is, and what was said. */
  label: string
  text: string
  isBad?: boolean
}

export interface Sequence {
  /** Names the lanes, and says what the signs mean. */
  begin(): void
  arrow(arrow: Arrow): void
  /** Somebody begins with a message. */
  mark(at: number, who: string, number: number): void
}

/** A part of a chain that other parts follow from. */
export interface Branch {
  /** Who, and which message. */
  name: string
  /** What became of it. */
  facts: string[]
  children: Branch[]
}

const CLOCK = 8
const LANE = { least: 9, most: 13 }
const NO_LANES_INDENT = 2

const dim = (text: string) => `\x1b[2m${text}\x1b[22m`
const colours = { message: '36', answer: '32', bad: '31' } as const

export function createSequence(paper: Paper, names: readonly string[]): Sequence {
  const lane = Math.min(LANE.most, Math.floor((paper.width - CLOCK) / names.length))
  const hasLanes = lane >= LANE.least
  const columnOf = (name: string) => CLOCK + names.indexOf(name) * lane
  const quiet = (text: string) => (paper.isColoured && text !== '' ? dim(text) : text)
  const paint = (text: string, colour: string) => (paper.isColoured ? `\x1b[${colour}m${text}\x1b[39m` : text)
  const line = (text: string) => paper.write(`${text}\n`)

  /** The clock and the lanes, with something in their place from a column on. */
  function row(at: number, column: number, sign: string, colour: string): void {
    const signs = [...clock(at).padEnd(columnOf(names.at(-1)!) + lane)]
    for (const name of names) signs[columnOf(name)] = '│'
    const before = signs.slice(0, column).join('')
    const after = signs
      .slice(column + sign.length)
      .join('')
      .trimEnd()
    line(quiet(before) + paint(sign, colour) + quiet(after))
  }

  return {
    begin() {
      const legend = '──▶ delivered   ◆ begun   ◀┄┄ replied'
      if (!hasLanes) return line(`  time  ${cut(legend, paper.width - CLOCK)}`)
      line(quiet(`${' '.repeat(CLOCK)}${cut(legend, paper.width - CLOCK)}`))
      line(`  time  ${names.map((name) => name.padEnd(lane)).join('')}`.trimEnd())
    },
    arrow({ at, from, to, hop, kind, label, text, isBad = false }) {
      const colour = isBad ? colours.bad : colours[kind]
      const shaft = kind === 'message' ? '─' : '┄'
      const indent = hasLanes ? CLOCK : CLOCK + NO_LANES_INDENT * Math.max(0, hop)
      if (hasLanes) {
        const [start, end] = [columnOf(from), columnOf(to)]
        const length = Math.abs(end - start)
        const sign = start < end ? `├${shaft.repeat(length - 2)}▶` : `◀${shaft.repeat(length - 2)}┤`
        row(at, start < end ? start : end + 1, sign, colour)
      } else
        line(
          quiet(clock(at)) +
            ' '.repeat(indent - CLOCK) +
            paint(cut(`${from} ${shaft}${shaft}▶ ${to}`, paper.width - indent), colour),
        )
      const room = paper.width - indent - label.length - 3
      line(`${' '.repeat(indent)}${paint(label, colour)} “${cut(text, room)}”`)
    },
    mark(at, who, number) {
      if (hasLanes) row(at, columnOf(who), `◆ #${number}`, colours.message)
    },
  }
}

/** Draws a chain. */
export function drawTree(paper: Paper, branch: Branch, lead = '', below = ''): void {
  const { name, facts, children } = branch
  paper.write(`${lead}${cut(`${name}  ${facts.join(', ')}`, paper.width - lead.length)}\n`)
  for (const [place, child] of children.entries()) {
    const isLast = place === children.length - 1
    drawTree(paper, child, `${below}${isLast ? '└─ ' : '├─ '}`, `${below}${isLast ? '   ' : '│  '}`)
  }
}

/** Writes what comes in pieces, so that no line is longer than the paper is wide. */
export function createColumn({ width, write }: Paper, indent: number): (piece: string) => void {
  let at = 0
  /** Between the last word and the next, if that comes on the same line. */
  let space = ''
  return (piece) => {
    for (const part of safe(piece).match(/\n|[^\S\n]+|\S+/g) ?? []) {
      if (part === '\n' || (part.trim() !== '' && at > 0 && at + space.length + widthOf(part) > width - indent)) {
        write('\n')
        at = 0
        space = ''
      }
      if (part.trim() === '') {
        space = part === '\n' ? '' : part
        continue
      }
      const before = at === 0 ? ' '.repeat(indent) : space
      write(before + part)
      at += (at === 0 ? 0 : space.length) + widthOf(part)
      space = ''
    }
  }
}

const clock = (ms: number): string => `${(ms / 1000).toFixed(2).padStart(6)}  `

/** No sign that a terminal would obey. */
const safe = (text: string): string => text.replace(/[^\P{C}\n]/gu, ' ')

const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u

/** Columns that a sign takes. */
const widthOfSign = (sign: string): number => (/\p{M}/u.test(sign) ? 0 : WIDE.test(sign) ? 2 : 1)
const widthOf = (text: string): number => [...text].reduce((sum, sign) => sum + widthOfSign(sign), 0)

/** As much of a text as there is room for, in one line. */
function cut(text: string, columns: number): string {
  const whole = safe(text)
    .replace(/\s*\n\s*/g, ' ')
    .trim()
  if (widthOf(whole) <= columns) return whole
  let room = columns - 1
  let shown = ''
  for (const sign of whole) {
    room -= widthOfSign(sign)
    if (room < 0) break
    shown += sign
  }
  return `${shown.trimEnd()}…`
}
