import { isIPv4 } from 'node:net'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { canonical, contains, isLoopback, networkOf, parseRange } from '../../src/config/address.ts'

const holds = (range: string, address: string): boolean => {
  const parsed = parseRange(range)
  if (parsed === undefined) throw new Error(`no range: ${range}`)
  return contains(parsed, address)
}

describe('a range', () => {
  it.each([
    ['10.0.0.1', '10.0.0.1', true],
    ['10.0.0.1', '10.0.0.2', false],
    ['10.0.0.1', '::ffff:10.0.0.1', true],
    ['10.0.0.1', '::ffff:a00:1', true],
    ['::ffff:10.0.0.1', '10.0.0.1', true],
    ['100.64.0.0/10', '100.127.255.255', true],
    ['100.64.0.0/10', '100.128.0.0', false],
    ['100.64.0.9/10', '100.64.0.1', true],
    ['::ffff:10.0.0.0/104', '10.255.0.1', true],
    ['::ffff:10.0.0.0/104', '11.0.0.1', false],
    ['0.0.0.0/0', '8.8.8.8', true],
    ['0.0.0.0/0', '::1', false],
    ['::/0', 'fe80::1', true],
    ['::/0', '8.8.8.8', false],
    ['::/0', '::ffff:8.8.8.8', false],
    ['fd00::/8', 'fdab::1', true],
    ['fd00::/8', 'fe00::1', false],
    ['2001:db8::1', '2001:0DB8:0:0::1', true],
    ['fe80::/10', 'fe80::1%eth0', true],
    ['*', 'anything', true],
    ['0.0.0.0/0', 'anything', false],
    ['10.0.0.0/8', '', false],
  ])('%s holds %s: %s', (range, address, expected) => {
    expect(holds(range, address)).toBe(expected)
  })

  it.each([
    '',
    'localhost',
    '10.0.0',
    '010.0.0.1',
    '10.0.0.1/33',
    '10.0.0.1/-1',
    '10.0.0.1/',
    '10.0.0.1/8/8',
    '10.0.0.1/8.0',
    '::1/129',
    '::ffff:10.0.0.0/90',
    'fe80::1%eth0',
    '[::1]',
    '10.0.0.1:80',
    '**',
  ])('is not written %j', (text) => {
    expect(parseRange(text)).toBeUndefined()
  })

  it('agrees with arithmetic on IPv4, mapped or plain', () => {
    const number = fc.integer({ min: 0, max: 0xffffffff })
    const dotted = (value: number) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.')
    fc.assert(
      fc.property(number, fc.integer({ min: 0, max: 32 }), number, fc.boolean(), (base, prefix, flip, mapped) => {
        const other = (base ^ (prefix === 32 ? flip & 1 : flip >>> Math.max(0, prefix - 1))) >>> 0
        const same = (value: number) => (prefix === 0 ? 0 : value >>> (32 - prefix))
        const address = mapped ? `::ffff:${dotted(other)}` : dotted(other)
        expect(holds(`${dotted(base)}/${prefix}`, address)).toBe(same(base) === same(other))
      }),
      { numRuns: 500 },
    )
  })

  it('agrees with arithmetic on IPv6', () => {
    const number = fc.bigInt({ min: 2n ** 100n, max: 2n ** 128n - 1n })
    const hex = (value: bigint) =>
      value
        .toString(16)
        .padStart(32, '0')
        .replace(/(.{4})(?=.)/g, '$1:')
    fc.assert(
      fc.property(number, fc.integer({ min: 0, max: 128 }), fc.integer({ min: 0, max: 99 }), (base, prefix, bit) => {
        const other = base ^ (1n << BigInt(bit))
        const shift = BigInt(128 - prefix)
        expect(holds(`${hex(base)}/${prefix}`, hex(other))).toBe(base >> shift === other >> shift)
      }),
      { numRuns: 500 },
    )
  })
})

describe('an address', () => {
  it('has one spelling', () => {
    expect(canonical('0:0:0:0:0:FFFF:7f00:1')).toBe('127.0.0.1')
    expect(canonical('[::1]')).toBe('::1')
    expect(canonical('2001:DB8:0::1')).toBe('2001:db8::1')
    expect(canonical('example.org')).toBeUndefined()
    fc.assert(
      fc.property(fc.ipV6(), (text) => {
        expect(canonical(canonical(text) ?? '')).toBe(canonical(text))
      }),
    )
    fc.assert(
      fc.property(fc.ipV4(), (text) => {
        expect(isIPv4(canonical(`::ffff:${text}`) ?? '')).toBe(true)
      }),
    )
  })

  it('is loopback in 127.0.0.0/8 and at ::1, mapped or not', () => {
    expect(['127.0.0.1', '127.9.9.9', '::1', '0:0:0:0:0:0:0:1', '::ffff:127.0.0.1'].every(isLoopback)).toBe(true)
    expect(['0.0.0.0', '::', '128.0.0.1', '::2', '::ffff:0.0.0.0', 'localhost', ''].some(isLoopback)).toBe(false)
  })
})

describe('the network of an address', () => {
  it.each([
    ['203.0.113.7', '203.0.113.7'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['::ffff:cb00:7107', '203.0.113.7'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['2001:0DB8:0:0:ffff::', '2001:db8:0:0::/64'],
    ['[2001:db8:1:2:3:4:5:6]', '2001:db8:1:2::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['1::', '1:0:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['::2:3:4:5:6:7', '0:0:2:3::/64'],
    ['1:2::4:5:6:7:8', '1:2:0:4::/64'],
    ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'],
    ['1:2:3:4:5:6:192.0.2.1', '1:2:3:4::/64'],
    ['', 'none'],
    ['/run/gateway.sock', 'none'],
  ])('%s is %s', (address, network) => {
    expect(networkOf(address)).toBe(network)
  })

  it('is the same for all that have their first 64 bits in common, and for no other', () => {
    const group = fc.nat(0xffff).map((n) => n.toString(16))
    const half = fc.tuple(group, group, group, group).map((groups) => groups.join(':'))
    fc.assert(
      fc.property(half, half, half, (first, second, other) => {
        if (first.startsWith('0:0:0:0')) return
        expect(networkOf(`${first}:${second}`)).toBe(networkOf(`${first}:${other}`))
        if (first !== other) expect(networkOf(`${first}:${second}`)).not.toBe(networkOf(`${other}:${second}`))
      }),
      { seed: 1206 },
    )
  })
})
