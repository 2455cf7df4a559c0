import { expect, it } from 'vitest'
import { isKeyed, isRepeatable, newKey } from '../../src/client/repeatable.ts'
import { absent } from '../../src/contract/absent.ts'
import { METHODS } from '../../src/contract/index.ts'

// Of what is not served nothing is done, once or twice.
const served = Object.entries(METHODS).filter(([name]) => !Object.hasOwn(absent, name))
/** Leaves word each time, although it is as open to what newer clients send as what only reads. */
const DOING = ['wake']
const blocks = served.map(([name, { unknown, params }]) => ({
  name,
  isReading: unknown === 'ignored' && !DOING.includes(name),
  hasKey: 'idempotencyKey' in params.properties,
}))

it('takes exactly those methods for keyed whose parameters carry a key', () => {
  const keyed = blocks.filter(({ hasKey }) => hasKey).map(({ name }) => name)
  expect(keyed.length).toBeGreaterThan(0)
  expect(blocks.map(({ name }) => name).filter(isKeyed)).toEqual(keyed)
})

it('asks exactly those methods twice that have a key, or only read', () => {
  const repeatable = blocks.filter(({ hasKey, isReading }) => hasKey || isReading).map(({ name }) => name)
  expect(repeatable.length).toBeLessThan(blocks.length)
  expect(blocks.map(({ name }) => name).filter(isRepeatable)).toEqual(repeatable)
})

it('knows no method by a name that objects inherit', () => {
  expect(['constructor', 'toString', '__proto__'].filter((name) => isKeyed(name) || isRepeatable(name))).toEqual([])
})

it('makes a key that is new each time', () => {
  const keys = Array.from({ length: 100 }, newKey)
  expect(new Set(keys).size).toBe(100)
  for (const key of keys) expect(key).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
})
