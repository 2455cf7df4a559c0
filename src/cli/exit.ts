/** Exit codes beyond 0 and 1, from sysexits(3). */
export const EXIT = { usage: 64, schema: 65, unavailable: 69, storage: 70, config: 78 } as const
