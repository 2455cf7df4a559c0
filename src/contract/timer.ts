/** The longest that a timer can wait, in ms, about 25 days: one that is set for longer fires at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1
