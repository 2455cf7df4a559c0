/** What the councillors are told to do: letters that hold letters, so that who gets one knows all that is to come of it. */

/** A councillor does the steps one after the other, and what stands in one step at the same time; then it says its words. */
export interface Order {
  /** At the beginning of the letter, and of the answer. */
  id: string
  words: number
  /** Between two words, in ms. */
  gap: number
  /** Whether it says its id before the steps: then something of the answer is there while they are done. */
  early: boolean
  steps: Act[][]
}

export type Act =
  /** Waits for the answer so many seconds. */
  | { do: 'ask'; to: string; wait: number; order: Order }
  /** Sends the same so many times, and waits for none. */
  | { do: 'fire'; to: string; times: number; order: Order }
  /** In a session of its own; `within`: dropped when it cannot be begun in so many seconds. */
  | { do: 'spawn'; to: string; within?: number; order: Order }

export const letterOf = ({ id, ...order }: Order): string => `${id} ${JSON.stringify(order)}`

/** What somebody says who has done it. */
export const answerTo = ({ id, words }: Pick<Order, 'id' | 'words'>): string =>
  `${id}:${Array.from({ length: words }, (_, n) => ` w${n}`).join('')}`

/** The id at the beginning of a letter. */
export const idOf = (letter: string): string => letter.split(' ', 1)[0]!

/** Every order in one, itself first. */
export function* ordersIn(order: Order): Iterable<Order> {
  yield order
  for (const { order: inner } of order.steps.flat()) yield* ordersIn(inner)
}

/** How many messages one answer may send: the limit of the gateway. */
const MOST_SENT = 8
const DEPTH = 3

/** Makes orders. @param roll a number in [0, 1) */
export function createOrders(roll: () => number, councillors: readonly string[]) {
  let count = 0
  const whole = (least: number, most: number) => least + Math.floor(roll() * (most - least + 1))
  const other = (than: string) => {
    const others = councillors.filter((one) => one !== than)
    return others[whole(0, others.length - 1)]!
  }

  function order(who: string, depth: number, inside = false): Order {
    const made: Order = {
      id: `m${++count}`,
      words: whole(1, 6),
      gap: whole(0, 30),
      early: roll() < 0.5,
      steps: [],
    }
    // Whatever is sent twice sends nothing itself: then each of its answers would.
    const steps = inside || depth >= DEPTH ? 0 : depth === 0 ? whole(1, 3) : roll() < 0.4 ? 1 : 0
    for (let n = 0; n < steps; n++) made.steps.push(step(who, depth))
    return made
  }

  function step(who: string, depth: number): Act[] {
    const dice = roll()
    if (dice < 0.3) return [asking(who, depth)]
    if (dice < 0.5) return [asking(who, depth), asking(who, depth)]
    if (dice < 0.75) {
      const to = roll() < 0.2 ? who : other(who)
      const within = roll() < 0.2 ? { within: 1 } : {}
      return [{ do: 'spawn', to, ...within, order: order(to, depth + 1) }]
    }
    const to = other(who)
    return [{ do: 'fire', to, times: roll() < 0.4 ? 2 : 1, order: order(to, depth + 1, true) }]
  }

  function asking(who: string, depth: number): Act {
    const to = other(who)
    return { do: 'ask', to, wait: whole(1, 3), order: order(to, depth + 1) }
  }

  /** Several to the same, one behind the other: as many as one answer may send. */
  function volley(who: string): Order {
    const to = other(who)
    const steps = Array.from({ length: MOST_SENT }, (): Act[] => [
      { do: 'fire', to, times: 1, order: { ...order(to, DEPTH), words: 1, gap: 5 } },
    ])
    return { ...order(who, DEPTH), words: 6, gap: 40, steps }
  }

  return {
    /** Somebody of the council, and what it is to do. */
    next(): { who: string; order: Order } {
      const who = councillors[whole(0, councillors.length - 1)]!
      return { who, order: roll() < 0.15 ? volley(who) : order(who, 0) }
    },
  }
}
