import { describe, expect, it } from 'vitest'
import { type Attempts, createAttempts, type Guesser, type KeptAttempts } from '../../src/auth/attempts.ts'
import { networkOf } from '../../src/config/address.ts'

const SECOND = 1_000
const MINUTE = 60 * SECOND

const from = (address: string, more: Partial<Guesser> = {}): Guesser => ({
  network: networkOf(address),
  origin: undefined,
  isShared: false,
  credential: 'token',
  ...more,
})
const ATTACKER = from('203.0.113.7')
const HERE = from('127.0.0.1', { isShared: true })

/** Attempts in a world whose clocks stand still until they are moved, with a disk that keeps what it is given. */
function world(room = 50_000) {
  const disk = new Map<string, KeptAttempts>()
  const wall = { at: 1_800_000_000_000 }
  let clock = 0
  let breaks = false
  const unkept: unknown[] = []
  const writes: string[] = []
  const open = (): Attempts =>
    createAttempts({
      monotonic: () => clock,
      now: () => wall.at,
      room,
      kept: [...disk].map(([id, value]) => ({ id, value })),
      async keep(changes) {
        if (breaks) throw new Error('no space')
        for (const { id, value } of changes) {
          writes.push(id)
          if (value) disk.set(id, structuredClone(value))
          else disk.delete(id)
        }
      },
      onUnkept: (error) => void unkept.push(error),
    })
  let attempts = open()
  return {
    disk,
    wall,
    unkept,
    writes,
    get size() {
      return attempts.size
    },
    begin: (guesser: Guesser, value: string) => attempts.begin(guesser, value),
    sweep: () => attempts.sweep(),
    pass(ms: number) {
      clock += ms
      wall.at += ms
    },
    breakDisk: (isBroken: boolean) => {
      breaks = isBroken
    },
    /** A new process, whose monotonic clock begins anywhere. */
    restart(awayMs = 0) {
      wall.at += awayMs
      clock = 5_000_000 - clock
      attempts = open()
    },
    /** Shows a value, and has it found right or wrong at once. Says whether it was looked at. */
    async show(guesser: Guesser, value: string, isRight = false): Promise<boolean> {
      const attempt = attempts.begin(guesser, value)
      if (attempt.mayTry) await attempt.end(isRight)
      return attempt.mayTry
    },
  }
}
type World = ReturnType<typeof world>

async function lockOut(it: World, guesser: Guesser): Promise<void> {
  for (let n = 0; n < 10; n++) expect(await it.show(guesser, `wrong ${n}`)).toBe(true)
}

const waitOf = (it: World, guesser: Guesser, value: string): number => {
  const attempt = it.begin(guesser, value)
  if (attempt.mayTry) throw new Error('it may try')
  return attempt.retryAfterMs
}

describe('somebody who guesses', () => {
  it('has ten different wrong values in a minute, then none for five minutes', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    expect(waitOf(it, ATTACKER, 'another')).toBe(5 * MINUTE)
    it.pass(5 * MINUTE - 1)
    expect(waitOf(it, ATTACKER, 'another')).toBe(1)
    it.pass(1)
    await lockOut(it, ATTACKER)
    expect(await it.show(ATTACKER, 'another')).toBe(false)
  })

  it('is not let in by the right value either while it is locked out', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    expect(await it.show(ATTACKER, 'right', true)).toBe(false)
  })

  it('gets no more than ten looks in any minute out of 100,000 guesses, however they are spread', async () => {
    const it = world()
    const looks: number[] = []
    let seed = 1206
    let at = 0
    for (let n = 0; n < 100_000; n++) {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
      const step = seed % 200
      it.pass(step)
      at += step
      if (await it.show(ATTACKER, `guess ${n}`)) looks.push(at)
    }
    // Ten thousand seconds, of which each lockout takes 300.
    expect(looks.length).toBeGreaterThan(200)
    expect(looks.length).toBeLessThan(350)
    for (let n = 10; n < looks.length; n++) expect(looks[n]! - looks[n - 10]!).toBeGreaterThanOrEqual(MINUTE)
  })

  it('gets ten looks out of a thousand at once: a place is taken before the look', async () => {
    const it = world()
    const attempts = Array.from({ length: 1_000 }, (_, n) => it.begin(ATTACKER, `guess ${n}`))
    expect(attempts.filter(({ mayTry }) => mayTry)).toHaveLength(10)
    for (const attempt of attempts) if (attempt.mayTry) await attempt.end(false)
    expect(waitOf(it, ATTACKER, 'another')).toBe(5 * MINUTE)
  })

  it('is told to come back soon while all places are taken, and takes one that was given back', async () => {
    const it = world()
    const attempts = Array.from({ length: 10 }, (_, n) => it.begin(ATTACKER, `value ${n}`))
    expect(waitOf(it, ATTACKER, 'another')).toBe(SECOND)
    const [first] = attempts
    if (first?.mayTry) await first.end(true)
    expect(await it.show(ATTACKER, 'another')).toBe(true)
  })

  it('is not forgiven for what was right in between', async () => {
    const it = world()
    for (let n = 0; n < 10; n++) {
      await it.show(ATTACKER, 'right', true)
      await it.show(ATTACKER, `wrong ${n}`)
    }
    expect(await it.show(ATTACKER, 'right', true)).toBe(false)
  })

  it('counts as one, whatever way its address is written and whichever of its own it comes from', async () => {
    const it = world()
    const spellings = [
      '203.0.113.7',
      '::ffff:203.0.113.7',
      '::ffff:cb00:7107',
      '::FFFF:203.0.113.7',
      '[::ffff:203.0.113.7]',
    ]
    for (let n = 0; n < 10; n++) expect(await it.show(from(spellings[n % 5]!), `wrong ${n}`)).toBe(true)
    for (const spelling of spellings) expect(await it.show(from(spelling), 'another')).toBe(false)
    expect(await it.show(from('203.0.113.8'), 'another')).toBe(true)

    for (let n = 0; n < 10; n++) expect(await it.show(from(`2001:db8:0:1:${n}::${n}`), `wrong ${n}`)).toBe(true)
    expect(await it.show(from('2001:db8::1:ffff:0:0:1'), 'another')).toBe(false)
    expect(await it.show(from('2001:db8:0:2::1'), 'another')).toBe(true)
  })

  it('is counted for tokens and for passwords apart', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    expect(await it.show({ ...ATTACKER, credential: 'password' }, 'another')).toBe(true)
  })

  it('is nobody any more a minute after', async () => {
    const it = world()
    for (let n = 0; n < 9; n++) await it.show(ATTACKER, `wrong ${n}`)
    expect(it.size).toBe(1)
    it.pass(MINUTE)
    await it.sweep()
    expect([it.size, it.disk.size]).toEqual([0, 0])
  })
})

describe('a value that was wrong before', () => {
  it('is only delayed, longer each time, and locks nobody out', async () => {
    const it = world()
    const delays: number[] = []
    for (let n = 0; n < 100; n++) {
      const attempt = it.begin(ATTACKER, 'an old token')
      if (!attempt.mayTry) throw new Error('refused')
      delays.push(attempt.delayMs)
      await attempt.end(false)
      it.pass(100)
    }
    expect(delays.slice(0, 8)).toEqual([0, 250, 500, 1_000, 2_000, 4_000, 5_000, 5_000])
    expect(Math.max(...delays)).toBe(5_000)
    expect(await it.show(ATTACKER, 'right', true)).toBe(true)
  })

  it('takes one place, however many show it at once', async () => {
    const it = world()
    const many = Array.from({ length: 1_000 }, () => it.begin(ATTACKER, 'the same'))
    expect(many.every(({ mayTry }) => mayTry)).toBe(true)
    for (const attempt of many) if (attempt.mayTry) await attempt.end(false)
    for (let n = 0; n < 9; n++) expect(await it.show(ATTACKER, `wrong ${n}`)).toBe(true)
    expect(await it.show(ATTACKER, 'another')).toBe(false)
  })
})

describe('on this machine', () => {
  it('who guesses waits longer and longer, one guess after the other, and is never locked out', async () => {
    const it = world()
    const delays: number[] = []
    let refusals = 0
    for (let n = 0; n < 1_000; n++) {
      const attempt = it.begin({ ...HERE, network: networkOf(`127.0.${n % 200}.1`) }, `guess ${n}`)
      if (attempt.mayTry) delays.push(attempt.delayMs)
      else {
        refusals += 1
        expect(attempt.retryAfterMs).toBeLessThanOrEqual(10_000)
      }
    }
    expect(delays).toEqual([...Array(10).fill(0), 250, 750, 1_750, 3_750])
    expect(refusals).toBe(1_000 - delays.length)
    it.pass(4 * SECOND)
    expect(await it.show(HERE, 'right', true)).toBe(true)
  })

  it('gets few looks in ten minutes of guessing', async () => {
    const it = world()
    let looks = 0
    for (let ms = 0; ms < 10 * MINUTE; ms += 50) {
      if (await it.show(HERE, `guess ${ms}`)) looks += 1
      it.pass(50)
    }
    expect(looks).toBeLessThan(200)
  })

  it('who guesses all the time does not keep a paired device out, which has its own count', async () => {
    const it = world()
    const device = { ...HERE, device: 'd' }
    for (let n = 0; n < 100; n++) it.begin(HERE, `guess ${n}`)
    expect(it.begin(HERE, 'right')).toMatchObject({ mayTry: false })
    expect(it.begin(device, 'right')).toMatchObject({ mayTry: true, delayMs: 0 })
    for (let n = 0; n < 9; n++) expect(await it.show(device, `wrong ${n}`)).toBe(true)
    expect(await it.show(device, 'one too many')).toBe(false)
    expect(await it.show({ ...device, device: 'another' }, 'right', true)).toBe(true)
  })

  it('a page has no such leave: it is locked out, as all pages of its origin and nobody else', async () => {
    const it = world()
    const page = { ...HERE, origin: 'http://localhost:18789' }
    await lockOut(it, page)
    expect(waitOf(it, { ...page, network: networkOf('::1') }, 'another')).toBe(5 * MINUTE)
    expect(await it.show({ ...page, origin: 'https://kurultai.example' }, 'another')).toBe(true)
    expect(await it.show(HERE, 'another')).toBe(true)
  })

  it('a page from afar is counted with its address, whatever origin it says it has', async () => {
    const it = world()
    for (let n = 0; n < 10; n++) await it.show({ ...ATTACKER, origin: `https://${n}.example` }, `wrong ${n}`)
    expect(await it.show(ATTACKER, 'another')).toBe(false)
    expect(await it.show(from('203.0.113.9', { origin: 'https://1.example' }), 'another')).toBe(true)
  })
})

describe('a restart', () => {
  it('in the middle of a lockout gives no guess away', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    it.pass(2 * MINUTE)
    it.restart(MINUTE)
    expect(waitOf(it, ATTACKER, 'another')).toBe(2 * MINUTE)
    it.pass(2 * MINUTE)
    expect(await it.show(ATTACKER, 'another')).toBe(true)
  })

  it('leaves as many guesses as there were', async () => {
    const it = world()
    for (let n = 0; n < 7; n++) await it.show(ATTACKER, `wrong ${n}`)
    await it.sweep()
    it.restart(10 * SECOND)
    for (let n = 0; n < 3; n++) expect(await it.show(ATTACKER, `new ${n}`)).toBe(true)
    expect(waitOf(it, ATTACKER, 'another')).toBe(5 * MINUTE)
  })

  it('locks nobody for longer than a lockout, wherever the clock was set meanwhile', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    it.wall.at -= 365 * 24 * 60 * MINUTE
    it.restart()
    expect(waitOf(it, ATTACKER, 'another')).toBe(5 * MINUTE)
  })

  it('finds nothing of what is over', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    it.restart(6 * MINUTE)
    expect(await it.show(ATTACKER, 'right', true)).toBe(true)
    await it.sweep()
    expect(it.disk.size).toBe(0)
  })
})

describe('what is kept', () => {
  it('is there before a lockout is told of', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    expect([...it.disk.values()][0]?.lockedUntil).toBe(it.wall.at + 5 * MINUTE)

    const other = from('198.51.100.1')
    const last = Array.from({ length: 10 }, (_, n) => it.begin(other, `wrong ${n}`))
    const ends = last.map((attempt) => (attempt.mayTry ? attempt.end(false) : undefined))
    const refused = it.begin(other, 'another')
    expect(refused.mayTry).toBe(false)
    if (!refused.mayTry) await refused.kept
    expect(it.disk.size).toBe(2)
    await Promise.all(ends)
  })

  it('holds neither a value nor anything made of one', async () => {
    const it = world()
    for (let n = 0; n < 9; n++) await it.show(ATTACKER, 'hunter2-hunter2')
    await lockOut(it, from('198.51.100.1'))
    await it.sweep()
    const { wrong, ...rest } = it.disk.get('token 203.0.113.7')!
    expect([wrong, rest]).toEqual([[it.wall.at], {}])
  })

  it('does not hold up or undo a lockout when the disk is full, and is made up for later', async () => {
    const it = world()
    it.breakDisk(true)
    await lockOut(it, ATTACKER)
    expect(it.unkept).toHaveLength(1)
    expect(await it.show(ATTACKER, 'another')).toBe(false)
    it.breakDisk(false)
    await it.sweep()
    it.restart()
    expect(await it.show(ATTACKER, 'another')).toBe(false)
  })

  it('is written once for each wrong value at the most, not for each refusal', async () => {
    const it = world()
    await lockOut(it, ATTACKER)
    const { length } = it.writes
    for (let n = 0; n < 10_000; n++) it.begin(ATTACKER, `more ${n}`)
    await it.sweep()
    expect(it.writes).toHaveLength(length)
  })
})

describe('with more addresses than there is room for', () => {
  const numbered = (n: number) => from(`10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`)

  it('those that are locked out stay so, and those without room share one bucket', async () => {
    const it = world(500)
    for (let n = 0; n < 500; n++) for (let guess = 0; guess < 10; guess++) await it.show(numbered(n), `${guess}`)
    expect(it.size).toBe(500)
    for (let n = 0; n < 10; n++) expect(await it.show(numbered(600 + n), `wrong ${n}`)).toBe(true)
    expect(await it.show(numbered(700), 'another')).toBe(false)
    expect(await it.show(numbered(0), 'another')).toBe(false)
    expect(it.size).toBe(500)
    it.pass(5 * MINUTE)
    await it.sweep()
    expect([it.size, it.disk.size]).toEqual([0, 0])
    expect(await it.show(numbered(700), 'another')).toBe(true)
  })

  it('those that are not make room, the one that was wrong the longest ago first', async () => {
    const it = world(500)
    await lockOut(it, ATTACKER)
    for (let n = 0; n < 1_000; n++) await it.show(numbered(n), 'wrong')
    expect(it.size).toBe(500)
    expect(await it.show(ATTACKER, 'another')).toBe(false)
    // The last one still has its nine, the first one is as new.
    for (let n = 0; n < 9; n++) expect(await it.show(numbered(999), `${n}`)).toBe(true)
    expect(await it.show(numbered(999), 'more')).toBe(false)
    for (let n = 0; n < 10; n++) expect(await it.show(numbered(0), `${n}`)).toBe(true)
    await it.sweep()
    expect(it.disk.size).toBe(500)
  })
})
