/** What an approval gives, and that nobody is ever given what no approver held. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { initialTransition, type SnapshotFrom, transition } from 'xstate'
import { pairingMachine } from '../../machines/pairing.ts'
import { OPERATOR_SCOPES, type Scope } from '../../src/contract/block.ts'
import { withImplied } from '../../src/contract/scopes.ts'
import { rig } from './rig.ts'

const TTL = 300_000
const start = (wanted: Scope[], waitsMs = TTL) =>
  rig(pairingMachine, { input: { requestId: 'p', wanted, ttlMs: TTL, waitsMs } })

async function approvedBy(holds: Scope[], wanted: Scope[]) {
  const bench = start(wanted)
  bench.send({ type: 'approve', holds: withImplied(holds) })
  if (bench.working.length === 0) return bench.state()
  await bench.resolve('keep')
  return bench.snapshot.context.granted
}

describe('an approval', () => {
  test('gives what was asked for, as far as the approver holds it', async () => {
    expect(await approvedBy(['operator.admin'], ['operator.admin', 'operator.read'])).toEqual([
      'operator.admin',
      'operator.read',
    ])
    expect(await approvedBy(['operator.pairing', 'operator.write'], [...OPERATOR_SCOPES])).toEqual(
      ['operator.read', 'operator.write', 'operator.pairing'].sort(
        (a, b) => OPERATOR_SCOPES.indexOf(a as Scope) - OPERATOR_SCOPES.indexOf(b as Scope),
      ),
    )
  })

  test('gives nothing to who asks for nothing: an empty list is no wish for everything', async () => {
    expect(await approvedBy(['operator.admin'], [])).toEqual([])
    expect(await approvedBy([], [])).toEqual([])
  })

  test('is none where the approver has nothing to give', async () => {
    expect(await approvedBy(['operator.pairing'], ['operator.admin', 'operator.read'])).toBe('waiting')
    expect(await approvedBy([], ['operator.read'])).toBe('waiting')
  })
})

describe('a request', () => {
  test('waits as long as it may, and longer each time it is repeated', () => {
    const bench = start(['operator.read'])
    bench.wait(TTL - 1)
    bench.send({ type: 'repeat' })
    bench.wait(TTL - 1)
    expect(bench.state()).toBe('waiting')
    bench.wait(1)
    expect(bench.state()).toBe('expired')
  })

  test('waits after a restart for what was left', () => {
    const bench = start(['operator.read'], 1_000)
    bench.wait(1_000)
    expect(bench.state()).toBe('expired')
  })

  test('hears the first word only', async () => {
    const bench = start(['operator.read'])
    bench.send({ type: 'reject' })
    bench.send({ type: 'approve', holds: ['operator.read'] })
    await bench.resolve('keep')
    expect([bench.state(), bench.snapshot.context.granted]).toEqual(['rejected', []])
  })

  test('waits on when the word could not be kept, and nothing of it is left', async () => {
    const bench = start(['operator.read'])
    bench.send({ type: 'approve', holds: ['operator.read'] })
    await bench.reject('keep', new Error('the disk is full'))
    expect([bench.state(), bench.snapshot.context.granted]).toEqual(['waiting', []])
    bench.send({ type: 'reject' })
    await bench.resolve('keep')
    expect(bench.state()).toBe('rejected')
  })

  test('does not expire while its word is being kept', () => {
    const bench = start(['operator.read'])
    bench.send({ type: 'approve', holds: ['operator.read'] })
    bench.wait(10 * TTL)
    expect(bench.state()).toBe('keeping')
  })
})

type Pairing = SnapshotFrom<typeof pairingMachine>
const PEOPLE = 6
const STEPS = 400
const WALKS = 50

/** What somebody who holds these can do: the rules of protocol 3, in other words than the chart's. */
const powers = (scopes: Iterable<Scope>): Set<Scope> => {
  const all = new Set(scopes)
  if (all.has('operator.write')) all.add('operator.read')
  return all.has('operator.admin') ? new Set(OPERATOR_SCOPES) : all
}

describe('a gateway full of devices that pair each other', () => {
  test(`gives nobody a scope that no approver held, in ${WALKS} walks of ${STEPS} steps`, () => {
    const scopes = fc.subarray([...OPERATOR_SCOPES])
    const step = fc.tuple(fc.nat({ max: 6 }), fc.nat({ max: PEOPLE - 1 }), fc.nat({ max: PEOPLE - 1 }), scopes)
    let approvals = 0
    fc.assert(
      fc.property(scopes, fc.array(step, { minLength: STEPS, maxLength: STEPS }), (root, steps) => {
        /** What each holds; the first was given its scopes by hand. */
        const held = new Map<number, Set<Scope>>([[0, new Set(root)]])
        const requests = new Map<number, Pairing>()
        const possible = powers(root)
        const take = (who: number, event: Parameters<typeof transition<typeof pairingMachine>>[2]) => {
          const request = requests.get(who)
          if (!request) return
          const [next] = transition(pairingMachine, request, event)
          if (next.status === 'done') requests.delete(who)
          else requests.set(who, next)
          if (next.status !== 'done' || next.value !== 'approved') return
          approvals += 1
          held.set(who, new Set([...(held.get(who) ?? []), ...next.context.granted]))
        }
        for (const [kind, who, by, wanted] of steps) {
          const approver = held.get(by) ?? new Set<Scope>()
          switch (kind) {
            case 0: {
              take(who, { type: 'supersede' })
              const input = { requestId: `${who}`, wanted, ttlMs: TTL, waitsMs: TTL }
              requests.set(who, initialTransition(pairingMachine, input)[0])
              break
            }
            case 1:
            case 2: {
              const before = powers(held.get(who) ?? [])
              const asked = requests.get(who)
              take(who, { type: 'approve', holds: withImplied(approver) })
              if (asked?.value === 'waiting')
                take(who, { type: 'xstate.done.actor.0.pairing.keeping', output: undefined } as never)
              for (const scope of powers(held.get(who) ?? []))
                if (!before.has(scope) && !powers(approver).has(scope))
                  throw new Error(`${who} gained ${scope} by ${by}`)
              break
            }
            case 3:
              take(who, { type: 'approve', holds: withImplied(approver) })
              take(who, { type: 'xstate.error.actor.0.pairing.keeping', error: new Error('full') } as never)
              break
            case 4:
              take(who, { type: 'repeat' })
              break
            case 5:
              take(who, { type: 'reject' })
              break
            case 6:
              take(who, { type: 'xstate.after.patience.pairing.waiting' } as never)
              break
          }
          for (const scopes of held.values())
            for (const scope of powers(scopes)) if (!possible.has(scope)) throw new Error(`${scope} came from nowhere`)
        }
      }),
      { seed: 1206, numRuns: WALKS },
    )
    expect(approvals).toBeGreaterThan(WALKS)
  })
})
